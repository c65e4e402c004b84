"""Series of frames across folders; what a single series is, is tested in test_near."""

from fewshot.images.frames import frame_runs
from tests.test_near import pan, prints_of, scene


def test_clips_of_equal_numbers_in_folders_of_their_own_are_a_run_each():
    frames = prints_of([*pan(8, seed=1), *pan(8, seed=2), *(scene(seed) for seed in range(20))])
    names = [f"cat/v{clip}/{i:04}.png" for clip in (1, 2) for i in range(8)] + [f"cat/photo {i}.png" for i in range(20)]
    runs = frame_runs(names, ["cat"] * 36, frames)
    assert [run.members for run in runs] == [tuple(range(8)), tuple(range(8, 16))]


def test_frames_of_one_clip_in_two_sets_are_one_run():
    frames = prints_of([*pan(12, seed=1), *(scene(seed) for seed in range(20))])
    names = [f"{'train' if i % 2 else 'test'}/cat/{i:04}.png" for i in range(12)] + [f"photo {i}" for i in range(20)]
    (run,) = frame_runs(names, ["cat"] * 32, frames, across_folders=True)
    assert set(run.members) == set(range(12))

"""Images in: the one reader, the labelled data set, and its audit."""

"""Other packages that explain images by hiding parts of them, a file each, on the same problem (extra ``peers``)."""

"""What else explains images by hiding parts of them, a file for each package, given what gpulime is given (extra ``peers``).

``python -m benchmarks.peers`` compares them all in one run.
"""

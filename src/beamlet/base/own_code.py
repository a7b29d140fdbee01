"""Where Beamlet's own code lies, so that a stack can be searched for the first frame that is the user's. ●"""

from pathlib import Path

#: Files whose path begins with this are ours.
OUR_FOLDER = str(Path(__file__).parents[1]) + "/"

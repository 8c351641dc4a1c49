"""Tests of the image on a real engine: `make image-test`, which builds the image and names it. Others do not collect them."""

import os

collect_ignore_glob = [] if os.environ.get("IMAGE") else ["test_*.py"]

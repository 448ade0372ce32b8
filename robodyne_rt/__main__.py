"""`python -m robodyne_rt` is the same as the command `robodyne-rt`."""

from robodyne_rt.cli import main

raise SystemExit(main())

"""`python -m robodyne_rt` is the same as the command `robodyne-rt`."""

from robodyne_rt.cli.main import main

raise SystemExit(main())

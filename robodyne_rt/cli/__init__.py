"""The command `robodyne-rt`: one file per noun; `main` puts them together, `control` speaks to the running server."""

"""The laboratory: tasks, studies over grids, figures and reports. Needs the extra `lab`."""

"""Jobs of the workflow on machines that Coiled rents."""

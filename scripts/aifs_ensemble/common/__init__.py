"""What every room uses: configuration, names, files, parameters, storage. Imports no other room."""

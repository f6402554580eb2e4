"""Where rows come from: registries, files, tables, the hub; read in blocks."""

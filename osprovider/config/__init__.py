"""The site's configuration: YAML with marks, checked against the schema, merged, as frozen data."""

__pyx_capi__: dict[str, object]
table: object

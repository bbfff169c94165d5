"""Validates Kubernetes' own objects, a JSON list on standard input, against the API's schemas.

validate.py VERSION...

Strict: unknown keys are errors. Prints how many objects it knew.
"""

import json
import sys

import kubernetes_validate

known = 0
for item in json.load(sys.stdin):
    name = f"{item['kind']} {item['metadata']['name']}"
    for version in sys.argv[1:]:
        try:
            kubernetes_validate.validate(item, version, strict=True)
        except kubernetes_validate.SchemaNotFoundError:
            continue
        except kubernetes_validate.ValidationError as error:
            path = ".".join(map(str, error.path))
            sys.exit(f"{name}, Kubernetes {version}, {path}: {error.message}")
        known += 1
print(known)

#!/usr/bin/env python3
"""Makes JSON Schemas of Kubernetes' own description of its API, as kubeconform reads them: kubernetes_schemas.py SWAGGER FOLDER

One file for each kind, KIND-GROUP-VERSION.json, which allows no field that Kubernetes does not know.
"""

import json
import os
import sys

DEFINITIONS = "definitions.json"
# Written as a number or as text; the description only says that it is text.
EITHER = {"type": ["string", "integer", "number"]}


def strict(schema):
    """Returns a definition that allows only the fields that it has, with references into the file of all definitions."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("format") == "int-or-string":
        return EITHER
    result = {}
    for key, value in schema.items():
        if key == "$ref":
            result[key] = DEFINITIONS + "#/definitions/" + value.rsplit("/", 1)[1]
        elif key == "properties":
            result[key] = {name: strict(part) for name, part in value.items()}
        elif not key.startswith("x-kubernetes") and key != "description":
            result[key] = strict(value)
    if "properties" in result and "additionalProperties" not in result:
        result["additionalProperties"] = False
    return result


def main():
    swagger, folder = sys.argv[1:]
    with open(swagger) as file:
        definitions = json.load(file)["definitions"]
    os.makedirs(folder, exist_ok=True)
    all_strict = {name: strict(schema) for name, schema in definitions.items()}
    # Its fields say "string", and people write 1 or "500m".
    all_strict["io.k8s.apimachinery.pkg.api.resource.Quantity"] = EITHER
    with open(os.path.join(folder, DEFINITIONS), "w") as file:
        json.dump({"definitions": all_strict}, file)
    for name, schema in definitions.items():
        for kind in schema.get("x-kubernetes-group-version-kind", []):
            group = kind["group"].split(".")[0]
            parts = [kind["kind"].lower()] + ([group] if group else []) + [kind["version"]]
            with open(os.path.join(folder, "-".join(parts) + ".json"), "w") as file:
                json.dump({"$ref": DEFINITIONS + "#/definitions/" + name}, file)


main()

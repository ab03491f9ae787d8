"""Every field of the published request schemas is carried or declared, for every client dialect and upstream dialect.

The schemas are the types of the vendors' own SDKs, and the OpenAPI descriptions of OpenAI and Anthropic. For each field there are two requests, equal but for it; when the upstream
gets the same body for both, the second must be refused or tell one loss more in `x-berry-loss`. What is told as lost as a whole is
not looked into further. `SILENT` lists, with the reason, what makes no difference and says nothing.
"""

import http.client
import json
import re
import types

import pytest
import typing_extensions as typing
from anthropic.types import message_create_params
from google.genai import types as google
from harness import matrix, published
from harness.emulator import KEY
from harness.gateway import TOKEN, USERS, model
from harness.mirror import Mirror
from openai.types.chat import completion_create_params
from openai.types.responses import response_create_params
from pydantic import BaseModel

#: A text that stands for any.
PROBE = "probe"
#: Values by the name of the field, where any text would not do.
BY_NAME = {
    "arguments": "{}",
    # Not what is meant by saying nothing.
    "detail": "low",
    "display": "omitted",
    "mimeType": "image/png",
    "parallel_tool_calls": False,
    "disable_parallel_tool_use": True,
    # The mirror answers plainly.
    "stream": False,
    "schema": {"type": "object", "properties": {"a": {"type": "string"}}},
    "parameters": {"type": "object", "properties": {"a": {"type": "string"}}},
    "input_schema": {"type": "object", "properties": {"a": {"type": "string"}}},
    "parametersJsonSchema": {"type": "object", "properties": {"a": {"type": "string"}}},
    "responseJsonSchema": {"type": "object", "properties": {"a": {"type": "string"}}},
}
#: Least values of types all of whose fields are optional, mostly Google's.
BY_TYPE = {
    google.Part: {"text": PROBE},
    google.FunctionCallingConfig: {"mode": "ANY"},
    google.Content: {"role": "user", "parts": [{"text": PROBE}]},
    google.Blob: {"mimeType": "image/png", "data": "aGk="},
    google.FileData: {"mimeType": "image/png", "fileUri": "https://example.org/a.png"},
    google.FunctionCall: {"name": PROBE},
    google.FunctionResponse: {"name": PROBE, "response": {"k": "v"}},
    google.FunctionDeclaration: {"name": PROBE},
    google.Schema: {"type": "STRING"},
    google.Tool: {"functionDeclarations": [{"name": PROBE}]},
}
#: The same by the names of types, in the SDK and in the description.
BY_LABEL = {
    "ChatCompletionAssistantMessageParam": {"role": "assistant", "content": PROBE},
    "ChatCompletionRequestAssistantMessage": {"role": "assistant", "content": PROBE},
}
#: What a part of Gemini is; the other fields say something about it.
PART_KINDS = {"text", "inlineData", "fileData", "functionCall", "functionResponse", "executableCode", "codeExecutionResult"}
#: What a request has beside the probe: what there must be, and tools for what is said about tools.
REQUEST = {
    "chat": {"tools": [{"type": "function", "function": {"name": PROBE}}]},
    "responses": {"input": PROBE, "tools": [{"type": "function", "name": PROBE, "parameters": {}, "strict": False}]},
    "messages": {"tools": [{"name": PROBE, "input_schema": {"type": "object"}}]},
    "gemini": {"tools": [{"functionDeclarations": [{"name": PROBE}]}]},
}
#: What stands before the first probe of a list, so that calls and results have their other half.
BEFORE = {
    ("chat", "messages"): [
        {"role": "user", "content": "hi"},
        {
            "role": "assistant",
            "tool_calls": [{"id": PROBE, "type": "function", "function": {"name": PROBE, "arguments": "{}"}}],
        },
    ],
    ("messages", "messages"): [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": PROBE, "name": PROBE, "input": {}}]},
    ],
    ("responses", "input"): [
        {"role": "user", "content": "hi"},
        {"type": "function_call", "call_id": PROBE, "name": PROBE, "arguments": "{}"},
    ],
    ("gemini", "contents"): [
        {"role": "user", "parts": [{"text": "hi"}]},
        {"role": "model", "parts": [{"functionCall": {"name": PROBE, "args": {}}}]},
    ],
}


class GeminiBody(BaseModel):
    """The body of `generateContent`, whose parts the SDK has types for."""

    contents: list[google.Content]
    systemInstruction: google.Content | None = None
    tools: list[google.Tool] | None = None
    toolConfig: google.ToolConfig | None = None
    safetySettings: list[google.SafetySetting] | None = None
    generationConfig: google.GenerationConfig | None = None
    cachedContent: str | None = None
    labels: dict[str, str] | None = None


CLIENTS = {
    "chat": (completion_create_params.CompletionCreateParamsNonStreaming, "/v1/chat/completions"),
    "responses": (response_create_params.ResponseCreateParamsNonStreaming, "/v1/responses"),
    "messages": (message_create_params.MessageCreateParamsNonStreaming, "/v1/messages"),
    "gemini": (GeminiBody, None),
}
OWN = {"chat": "openai", "responses": "openai", "messages": "anthropic", "gemini": "gemini"}

#: Fields that make no difference and need no word: client, pattern of the path, why.
SILENT = [
    ("chat", r"^\.stream_options\.", "how the client's own stream is written is between it and the gateway"),
    ("responses", r"^\.stream_options", "how the client's own stream is written is between it and the gateway"),
    ("", r"^\.model$", "the test asks for a model of its own"),
    ("chat", r"^\.response_format\|ResponseFormatJ(SON|son)Schema.json_schema.strict$", "schemas are always followed there"),
    ("responses", r"^\.text\.format\|\w+\.strict$", "schemas are always followed there"),
    ("messages", r"^\.thinking\|ThinkingConfigAdaptive(Param)?$", "a model that thinks does so as it likes"),
    ("", r"^\.stream$", "`false` is what is meant without it"),
    ("chat", r"^\.response_format\|ResponseFormatText$", "text is what is meant without it"),
    ("responses", r"^\.text\.format\|ResponseFormatText$", "text is what is meant without it"),
    ("messages", r"\[Tool(Param)?\]\.type$", "`custom` is what is meant without it"),
    ("messages", r"\.caller", "who may call a tool is everybody where there are no programs that call"),
    ("responses", r"^\.input\[\w+\]\.(id|status|type)$", "names and states of items, which no other dialect has"),
    ("responses", r"^\.input$", "a text is the same as a message of the user with it"),
    ("responses", r"\[FunctionCallOutput\]\.call_id$", "a result without it is of the first call that has none"),
    ("gemini", r"^\.systemInstruction\.role$", "nobody else speaks there"),
    ("gemini", r"\.propertyOrdering$", "the order of the properties themselves is kept"),
]


def fields_of(kind) -> dict[str, tuple[object, bool]]:
    """The fields of an object type by their names on the wire, with whether they must be there."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {
            field.alias or name: (field.annotation, field.is_required()) for name, field in kind.model_fields.items()
        }
    # Which keys are required is not known to the class itself, whose annotations are texts.
    hints = typing.get_type_hints(kind, include_extras=True)
    return {
        name: (typing.get_args(hint)[0], True) if typing.get_origin(hint) is typing.Required else (hint, kind.__total__)
        for name, hint in hints.items()
    }


def alternatives(kind) -> list:
    """The types that a value may have, without `None`."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return [one for part in typing.get_args(kind) for one in alternatives(part)]
    if typing.get_origin(kind) in (typing.Annotated, typing.NotRequired):
        return alternatives(typing.get_args(kind)[0])
    if isinstance(kind, typing.TypeAliasType):
        return alternatives(kind.__value__)
    return [] if kind in (type(None), None) else [kind]


def is_object(kind) -> bool:
    return typing.is_typeddict(kind) or isinstance(kind, type) and issubclass(kind, BaseModel)


def element_of(kind):
    """The type of a list's elements; `None` of what is no list."""
    origin = typing.get_origin(kind)
    name = getattr(origin, "__name__", "")
    return typing.get_args(kind)[0] if origin is list or name in ("Iterable", "Sequence", "SequenceNotStr", "List") else None


def least(kind, name: str = ""):
    """The least value of a type."""
    if BY_NAME.get(name) is not None:
        return BY_NAME[name]
    kind = next(iter(alternatives(kind)), str)
    if kind in BY_TYPE:
        return BY_TYPE[kind]
    if label(kind) in BY_LABEL:
        return BY_LABEL[label(kind)]
    if is_object(kind):
        return {name: least(hint, name) for name, (hint, required) in fields_of(kind).items() if required}
    if typing.get_origin(kind) is typing.Literal:
        return typing.get_args(kind)[0]
    if (element := element_of(kind)) is not None:
        return [least(element)]
    if typing.get_origin(kind) is dict:
        return {"k": least(typing.get_args(kind)[1])}
    if isinstance(kind, type) and issubclass(kind, bool):
        return True
    if isinstance(kind, type) and issubclass(kind, int):
        return 3
    if isinstance(kind, type) and issubclass(kind, float):
        return 0.5
    if isinstance(kind, type) and issubclass(kind, str) and list(getattr(kind, "__members__", ())):
        return next(value.value for value in kind if not value.value.endswith("UNSPECIFIED"))
    return {"k": "v"} if kind in (object, typing.Any) else PROBE


def label(kind) -> str:
    return getattr(kind, "__name__", str(kind))


class Walk:
    """Goes over the fields of one client's requests at one upstream."""

    def __init__(self, client: str, upstream: str, ask):
        self.client, self.upstream, self.ask = client, upstream, ask
        #: Fields that were looked at, and those that went without a word.
        self.seen, self.silent = 0, []

    def reaches(self, path: str, fuller, less, *, is_empty: bool = False) -> bool:
        """Whether to look below: the field reaches the upstream, or has nothing in it that could."""
        if fuller == less:
            return True
        self.seen += 1
        one, other = self.ask(self.client, self.upstream, fuller), self.ask(self.client, self.upstream, less)
        if one.status != 200:
            return False
        if one.body != other.body:
            return True
        if one.losses - other.losses:
            return False
        if not is_empty:
            self.silent.append(path)
        return is_empty

    def object(self, kind, path: str, wrap, seen=()) -> None:
        """Looks at each field of an object; `wrap` makes a request of a value of it."""
        if kind in seen or len(seen) > 8:
            return
        for name, (hint, required) in fields_of(kind).items():
            base = least(kind)
            if kind is google.Part and name in PART_KINDS:
                base = {}
            without = {key: value for key, value in base.items() if key != name}
            for one in alternatives(hint):
                where = f"{path}.{name}|{label(one)}" if len(alternatives(hint)) > 1 and is_object(one) else f"{path}.{name}"
                own = {**base, name: least(one, name)}
                if required or self.reaches(where, wrap(own), wrap(without), is_empty=own[name] in ({}, [{}], [])):
                    self.value(one, name, where, lambda value, name=name, base=base: wrap({**base, name: value}), (*seen, kind))

    def value(self, kind, name: str, path: str, wrap, seen) -> None:
        if BY_NAME.get(name) is not None:
            return
        if is_object(kind):
            self.object(kind, path, wrap, seen)
        elif (element := element_of(kind)) is not None:
            self.elements(element, path, wrap, seen)

    def elements(self, kind, path: str, wrap, seen) -> None:
        """Looks at each kind of element, behind one of the first kind."""
        before = BEFORE.get((self.client, path.strip(".")), [])
        for one in alternatives(kind):
            if not is_object(one):
                continue
            head = before or [least(kind)]
            name = f"{path}[{label(one)}]"
            if self.reaches(name, wrap([*head, least(one)]), wrap(head)):
                self.object(one, name, lambda value, head=before: wrap([*head, value]), seen)


class Answer(typing.NamedTuple):
    status: int
    #: What the upstream got.
    body: bytes
    losses: frozenset[str]


@pytest.fixture(scope="module")
def ask(start):
    """Sends a body of a client to an upstream and tells what became of it. Equal bodies are sent once."""
    mirror = Mirror()
    tables = ["[settings]\nmax_retries = 0\n", USERS]
    for dialect, upstream in matrix.UPSTREAMS.items():
        kind = {"anthropic": "claude"}.get(dialect, dialect)
        tables.append(
            f'[providers.{dialect}]\nname = "{dialect}"\nbackend_type = "{kind}"\nbase_url = "{mirror.url}"\n'
            f'api_key = "{KEY}"\nmodels = []\n'
        )
        tables.append(model(dialect, dialect, upstream))
    gateway = start("\n".join(tables))
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
    known: dict[tuple[str, str, str], Answer] = {}

    def ask(client: str, upstream: str, body: dict) -> Answer:
        path = CLIENTS[client][1] or f"/v1beta/models/{upstream}:generateContent"
        if client != "gemini":
            body = {**body, "model": upstream}
        text = json.dumps(body)
        if (client, upstream, text) not in known:
            mirror.body = b""
            headers = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}
            connection.request("POST", path, text, headers)
            answer = connection.getresponse()
            said = answer.read()
            # A conversation or response that nobody knows is not found.
            assert answer.status in (200, 400, 404), (answer.status, said, text)
            losses = answer.getheader("x-berry-loss") or ""
            known[client, upstream, text] = Answer(
                answer.status, mirror.body, frozenset(loss for loss in losses.split(", ") if loss)
            )
        return known[client, upstream, text]

    yield ask
    connection.close()
    mirror.stop()


PAIRS = [(client, upstream) for client in CLIENTS for upstream in matrix.UPSTREAMS if OWN[client] != upstream]
#: Whose description has the call of a client, and under which path.
DESCRIBED = {
    "chat": ("openai", "/chat/completions"),
    "responses": ("openai", "/responses"),
    "messages": ("anthropic", "/v1/messages"),
}


def look_at(kind, client: str, upstream: str, ask) -> int:
    """Looks at every field of a type of requests; gives how many there are."""
    walk = Walk(client, upstream, ask)
    walk.object(kind, "", lambda body: {**REQUEST[client], **body})
    known = [re.compile(pattern) for own, pattern, _ in SILENT if own in (client, "")]
    unknown = [path for path in walk.silent if not any(pattern.search(path) for pattern in known)]
    assert not unknown, f"{len(unknown)} fields neither reach {upstream} nor are declared:\n" + "\n".join(unknown)
    return walk.seen


@pytest.mark.parametrize(("client", "upstream"), PAIRS)
def test_every_field_is_carried_or_declared(client, upstream, ask, record_property):
    seen = look_at(CLIENTS[client][0], client, upstream, ask)
    record_property("fields", seen)
    assert seen > 60


@pytest.mark.parametrize(("client", "upstream"), [pair for pair in PAIRS if pair[0] in DESCRIBED])
def test_every_field_of_the_vendors_own_description_is_carried_or_declared(client, upstream, ask, record_property):
    seen = look_at(published.request_type(*DESCRIBED[client]), client, upstream, ask)
    record_property("fields", seen)
    assert seen > 60


@pytest.mark.parametrize(("client", "upstream"), PAIRS)
def test_a_field_that_no_schema_has_is_declared(client, upstream, ask):
    body = {**REQUEST[client], **least(CLIENTS[client][0])}
    answer = ask(client, upstream, {**body, "a_field_of_tomorrow": {"k": 1}})
    assert answer.status == 200, answer
    assert any(loss.startswith("a_field_of_tomorrow;") for loss in answer.losses), answer

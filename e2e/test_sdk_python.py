"""The current openai-python through the gateway, to the demo upstream and to the independent emulator."""

import asyncio
import base64
import json

import openai
import pytest
from pydantic import BaseModel

from harness import sdk
from harness.gateway import DISABLED_TOKEN, NARROW_TOKEN, TOKEN

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather in a city",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
TIME = {
    "type": "function",
    "function": {
        "name": "get_time",
        "description": "Time in a zone",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"zone": {"type": "string"}},
            "required": ["zone"],
            "additionalProperties": False,
        },
    },
}


class City(BaseModel):
    city: str
    population: int


@pytest.fixture(scope="module")
def gateway(start, emulator):
    return start(sdk.config(emulator))


def client_for(gateway, token: str = TOKEN) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=token, max_retries=0, timeout=30)


@pytest.fixture(scope="module")
def client(gateway):
    with client_for(gateway) as client:
        yield client


@pytest.fixture(params=["demo", "emulator"])
def target(request) -> str:
    return request.param


def user(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


def test_chat_answers_with_text_usage_and_the_gateways_headers(client, target):
    raw = client.chat.completions.with_raw_response.create(model=f"{target}-model", messages=user("hello"))
    completion = raw.parse()
    choice = completion.choices[0]
    assert choice.message.role == "assistant" and choice.message.content
    assert choice.finish_reason == "stop"
    assert completion.usage.prompt_tokens > 0 and completion.usage.completion_tokens > 0
    assert raw.headers["x-berry-provider"] == target
    assert raw.headers["x-berry-attempts"] == "1"
    assert raw.headers["x-request-id"] == completion._request_id
    if target == "emulator":
        assert choice.message.content == "Hello from the emulator, word by word."


def test_a_stream_says_what_the_plain_answer_says_and_no_usage_unasked(client, target):
    plain = client.chat.completions.create(model=f"{target}-model", messages=user("hello"))
    chunks = list(client.chat.completions.create(model=f"{target}-model", messages=user("hello"), stream=True))
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == plain.choices[0].message.content
    assert len(chunks) > 3
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason] == ["stop"]
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


def test_a_stream_ends_with_usage_when_asked(client, target):
    stream = client.chat.completions.create(
        model=f"{target}-model", messages=user("hello"), stream=True, stream_options={"include_usage": True}
    )
    last = list(stream)[-1]
    assert last.choices == []
    assert last.usage.prompt_tokens > 0 and last.usage.completion_tokens > 0


def test_a_tool_call_has_the_declared_arguments(client, target):
    completion = client.chat.completions.create(
        model=f"{target}-model", messages=user("What is the weather in Paris?"), tools=[WEATHER], tool_choice="required"
    )
    assert completion.choices[0].finish_reason == "tool_calls"
    (call,) = completion.choices[0].message.tool_calls
    assert call.id and call.function.name == "get_weather"
    assert json.loads(call.function.arguments).keys() == {"city", "unit"}


def test_streamed_tool_arguments_come_in_pieces_that_add_up(client, target):
    pieces, ids, names = [], [], []
    for chunk in client.chat.completions.create(
        model=f"{target}-model",
        messages=user("What is the weather in Paris?"),
        tools=[WEATHER],
        tool_choice="required",
        stream=True,
    ):
        for choice in chunk.choices:
            for call in choice.delta.tool_calls or []:
                assert call.index == 0
                ids += [call.id] if call.id else []
                names += [call.function.name] if call.function.name else []
                pieces += [call.function.arguments] if call.function.arguments else []
    assert len(ids) == 1 and names == ["get_weather"]
    assert len(pieces) > 1
    assert json.loads("".join(pieces)).keys() == {"city", "unit"}


def test_the_stream_helper_assembles_tool_calls(client, target):
    with client.chat.completions.stream(
        model=f"{target}-model", messages=user("What is the weather in Paris?"), tools=[WEATHER], tool_choice="required"
    ) as stream:
        done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
        final = stream.get_final_completion()
    assert [event.name for event in done] == ["get_weather"]
    assert final.choices[0].message.tool_calls[0].function.parsed_arguments.keys() == {"city", "unit"}


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
def test_parallel_tool_calls_are_answered_and_the_conversation_goes_on(client, target, streamed):
    def ask(messages):
        options = dict(model=f"{target}-model", messages=messages, tools=[WEATHER, TIME], parallel_tool_calls=True)
        if not streamed:
            return client.chat.completions.create(**options).choices[0]
        with client.chat.completions.stream(**options) as stream:
            return stream.get_final_completion().choices[0]

    messages = user("Tell me both the weather and the time in Paris.")
    first = ask(messages)
    assert first.finish_reason == "tool_calls"
    calls = first.message.tool_calls
    assert sorted(call.function.name for call in calls) == ["get_time", "get_weather"]
    assert len({call.id for call in calls}) == 2
    echo = [{"id": c.id, "type": "function", "function": {"name": c.function.name, "arguments": c.function.arguments}} for c in calls]
    messages.append({"role": "assistant", "content": None, "tool_calls": echo})
    for call in calls:
        messages.append({"role": "tool", "tool_call_id": call.id, "content": '{"answer": "18 degrees, noon"}'})
    second = ask(messages)
    assert second.finish_reason == "stop"
    assert second.message.content and not second.message.tool_calls


def test_a_json_schema_is_parsed_into_the_declared_type(client, target):
    completion = client.chat.completions.parse(model=f"{target}-model", messages=user("Describe Paris"), response_format=City)
    city = completion.choices[0].message.parsed
    assert isinstance(city, City) and city.city


def test_a_streamed_json_schema_is_parsed_into_the_declared_type(client, target):
    with client.chat.completions.stream(
        model=f"{target}-model", messages=user("Describe Paris"), response_format=City
    ) as stream:
        city = stream.get_final_completion().choices[0].message.parsed
    assert isinstance(city, City) and city.city


def test_embeddings_with_the_clients_default_encoding(client, target):
    answer = client.embeddings.create(model=f"{target}-model", input=["one", "two"])
    assert [item.index for item in answer.data] == [0, 1]
    assert all(len(item.embedding) > 0 and isinstance(item.embedding[0], float) for item in answer.data)
    floats = client.embeddings.create(model=f"{target}-model", input=["one", "two"], encoding_format="float")
    for item, plain in zip(answer.data, floats.data, strict=True):
        assert item.embedding == pytest.approx(plain.embedding, abs=1e-6)


def test_models_are_listed_sorted_and_retrieved_by_name(client):
    listed = list(client.models.list())
    assert [model.id for model in listed] == sdk.MODELS
    assert {model.owned_by for model in listed} == {"berry-api"}
    one = client.models.retrieve("demo-model")
    assert (one.id, one.object) == ("demo-model", "model")
    assert one.created == next(model.created for model in listed if model.id == "demo-model")


def test_a_narrow_user_sees_and_uses_only_what_is_allowed(gateway):
    with client_for(gateway, NARROW_TOKEN) as client:
        assert [model.id for model in client.models.list()] == ["only-this"]
        assert client.chat.completions.create(model="only-this", messages=user("hello")).choices[0].message.content


def test_many_asynchronous_calls_at_once(gateway):
    async def main() -> None:
        async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=TOKEN, max_retries=0) as client:

            async def one(number: int) -> None:
                target = ("demo", "emulator")[number % 2]
                stream = await client.chat.completions.create(
                    model=f"{target}-model", messages=user(f"hello {number}"), stream=True
                )
                assert [chunk async for chunk in stream]

            await asyncio.gather(*(one(number) for number in range(40)))

    asyncio.run(main())


# The emulator has no /v1/completions, the demo upstream answers it.
@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
def test_legacy_completions(client, streamed):
    answer = client.completions.create(model="demo-model", prompt="Once upon a time", stream=streamed)
    chunks = list(answer) if streamed else [answer]
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices)
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")


def test_responses_plain_and_streamed(client, target):
    answer = client.responses.create(model=f"{target}-model", input="hello")
    assert answer.status == "completed" and answer.output_text
    events = list(client.responses.create(model=f"{target}-model", input="hello", stream=True))
    assert events[0].type == "response.created" and events[-1].type == "response.completed"
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == answer.output_text


def test_moderations(client, target):
    flagged = client.moderations.create(model=f"{target}-model", input="to be flagged").results[0]
    assert flagged.flagged and flagged.categories.violence
    assert not client.moderations.create(model=f"{target}-model", input="kindness").results[0].flagged


def test_images(client, target):
    answer = client.images.generate(model=f"{target}-model", prompt="a berry", response_format="b64_json")
    assert base64.b64decode(answer.data[0].b64_json, validate=True)


def test_speech_arrives_byte_for_byte(client, target):
    ask = dict(model=f"{target}-model", voice="alloy", input="say this")
    answer = client.audio.speech.create(**ask)
    assert answer.response.headers["content-type"].startswith("audio/")
    assert answer.content and answer.content == client.audio.speech.create(**ask).content
    if target == "emulator":
        assert answer.content == b"not really sound"


def test_transcription_of_an_uploaded_file(client, target):
    file = ("speech.wav", b"RIFF" + bytes(300_000), "audio/wav")
    assert client.audio.transcriptions.create(model=f"{target}-model", file=file).text


def test_the_upstream_gets_our_key_its_model_name_and_nothing_of_the_clients_headers(client, emulator):
    client.chat.completions.create(
        model="emulator-model",
        messages=user("mark this request"),
        temperature=0.25,
        extra_body={"vendor_field": [1, {"deep": None}]},
        extra_headers={"cookie": "secret=1", "x-custom": "secret"},
    )
    (seen,) = [request for request in emulator.requests() if "mark this request" in json.dumps(request["body"])]
    body = seen["body"]
    assert (body["model"], body["temperature"], body["vendor_field"]) == ("upstream-model", 0.25, [1, {"deep": None}])
    headers = {name.lower(): value for name, value in seen["headers"].items()}
    assert TOKEN not in json.dumps(seen)
    assert headers["user-agent"].startswith("berry")
    assert not [name for name in headers if name.startswith(("x-stainless", "cookie", "x-custom"))], headers


def test_azure_is_asked_at_the_deployment_address_with_its_own_key_header(client, emulator):
    client.chat.completions.create(model="azure-model", messages=user("mark the azure request"))
    (seen,) = [request for request in emulator.requests() if "mark the azure request" in json.dumps(request["body"])]
    assert seen["path"] == "/openai/deployments/upstream-deployment/chat/completions?api-version=2024-10-21"
    headers = {name.lower() for name in seen["headers"]}
    assert "api-key" in headers and "authorization" not in headers


# Each exception type of the client, by the gateway's own refusals and by errors that an upstream answered.

both_ways = pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])


def refused(kind: type[openai.APIStatusError], status: int, client, model: str, streamed: bool, **more) -> openai.APIStatusError:
    """The exception that a chat call raises, after checking its type and what holds for all of them."""
    with pytest.raises(kind) as caught:
        client.chat.completions.create(model=model, stream=streamed, **{"messages": user("hello"), **more})
    error = caught.value
    assert error.status_code == status and error.request_id
    assert error.response.headers["content-type"].startswith("application/json")
    assert TOKEN not in str(error)
    return error


@both_ways
@pytest.mark.parametrize(("token", "code"), [("wrong", "invalid_token"), (DISABLED_TOKEN, "disabled_user")])
def test_401_is_an_authentication_error(gateway, token, code, streamed):
    with client_for(gateway, token) as client:
        assert refused(openai.AuthenticationError, 401, client, "demo-model", streamed).code == code


@both_ways
def test_403_is_a_permission_denied_error(gateway, streamed):
    with client_for(gateway, NARROW_TOKEN) as client:
        assert refused(openai.PermissionDeniedError, 403, client, "demo-model", streamed).code == "model_access_denied"


@both_ways
def test_404_is_a_not_found_error(client, streamed):
    error = refused(openai.NotFoundError, 404, client, "no-such-model", streamed)
    assert (error.code, error.param) == ("model_not_found", "model")


def test_retrieving_an_unknown_model_is_a_not_found_error(client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("no-such-model")
    assert caught.value.code == "model_not_found"


@both_ways
def test_the_gateways_own_400_is_a_bad_request_error(client, streamed):
    error = refused(openai.BadRequestError, 400, client, "demo-model", streamed, extra_body={"backend": "no-such-provider"})
    assert error.code == "unknown_backend"


@both_ways
def test_the_gateways_own_413_is_a_status_error(client, streamed):
    error = refused(openai.APIStatusError, 413, client, "demo-model", streamed, messages=user("x" * 1_100_000))
    assert error.code == "payload_too_large"


@both_ways
@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (400, openai.BadRequestError, "context_length_exceeded"),
        (409, openai.ConflictError, "conflict"),
        (413, openai.APIStatusError, "request_too_large"),
        (422, openai.UnprocessableEntityError, "unprocessable"),
        (429, openai.RateLimitError, "rate_limit_exceeded"),
        (500, openai.InternalServerError, "server_error"),
        (503, openai.InternalServerError, "overloaded"),
    ],
)
def test_an_upstreams_own_error_keeps_status_type_and_body(gateway, emulator, status, kind, code, streamed, start):
    # A gateway of its own each time: an answer that cools a backend down must not reach the next case.
    with client_for(start(sdk.config(emulator))) as client:
        error = refused(kind, status, client, f"emulator-error-{status}", streamed)
    assert error.code == code
    assert error.body["message"] == f"emulated error {status}"
    if status == 429:
        assert error.response.headers["retry-after"] == "7"


@both_ways
def test_an_upstream_that_refuses_our_key_is_a_502_without_key_or_body(client, streamed):
    error = refused(openai.InternalServerError, 502, client, "wrong-key", streamed)
    assert error.code == "upstream_auth_error"
    assert "not-the-emulators-key" not in error.response.text and "Invalid API key" not in error.response.text


@both_ways
def test_an_upstream_that_is_not_there_is_a_503_that_says_when_to_come_back(client, streamed):
    error = refused(openai.InternalServerError, 503, client, "nobody-there", streamed)
    assert error.code == "no_backend_available"
    assert int(error.response.headers["retry-after"]) >= 0

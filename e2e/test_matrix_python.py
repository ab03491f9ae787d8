"""Python clients through the gateway to upstreams of each dialect: every cell is one client, one upstream, one feature."""

import base64
import concurrent.futures
import json

import anthropic
import openai
import pytest
from google import genai
from google.genai import errors, types
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI

from harness import matrix
from harness.gateway import TOKEN
from harness.matrix import CITY, FEATURES, PARALLEL, PDF, PNG, TEXT, TIME, UPSTREAMS, USAGE, WEATHER
from harness.tap import SILENCE, Tap

BOTH = "What is the weather and the time in Paris, both?"
ONE = "What is the weather in Paris?"
FACTS = "Give me the facts about Paris."
THINK = "think: two and two?"
REFUSED = "Please be refused."
#: Shorter than the silence: without keep-alives a client gives up.
PATIENCE = 25


class OpenAiChat:
    """openai-python, chat completions."""

    tools = [
        {"type": "function", "function": {"name": name, "description": name, "parameters": schema}}
        for name, schema in (("get_weather", WEATHER), ("get_time", TIME))
    ]

    def __init__(self, url: str):
        self.client = openai.OpenAI(base_url=f"{url}/v1", api_key=TOKEN, max_retries=0, timeout=PATIENCE)

    def ask(self, model, content, **options):
        messages = content if isinstance(content, list) and "role" in content[0] else [{"role": "user", "content": content}]
        return self.client.chat.completions.create(model=model, messages=messages, **options)

    def chat(self, model):
        answer = self.ask(model, "hello")
        return answer.choices[0].message.content, (answer.usage.prompt_tokens, answer.usage.completion_tokens)

    def stream(self, model, text="hello"):
        chunks = list(self.ask(model, text, stream=True, stream_options={"include_usage": True}))
        usage = chunks[-1].usage
        pieces = [choice.delta.content for chunk in chunks for choice in chunk.choices if choice.delta.content]
        return pieces, (usage.prompt_tokens, usage.completion_tokens)

    def call(self, model):
        deltas = [
            call.function
            for chunk in self.ask(model, ONE, tools=self.tools, stream=True)
            for choice in chunk.choices
            for call in choice.delta.tool_calls or []
        ]
        name = "".join(delta.name or "" for delta in deltas)
        return name, json.loads("".join(delta.arguments or "" for delta in deltas))

    def parallel(self, model):
        first = self.ask(model, BOTH, tools=self.tools).choices[0].message
        assert [call.function.name for call in first.tool_calls] == ["get_weather", "get_time"]
        results = [{"role": "tool", "tool_call_id": call.id, "content": "18 degrees"} for call in first.tool_calls]
        history = [{"role": "user", "content": BOTH}, first.model_dump(exclude_none=True), *results]
        return self.ask(model, history, tools=self.tools).choices[0].message.content

    def image(self, model):
        picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
        return self.ask(model, [{"type": "text", "text": "hello"}, picture]).choices[0].message.content

    def pdf(self, model):
        paper = {"type": "file", "file": {"filename": "paper.pdf", "file_data": f"data:application/pdf;base64,{PDF}"}}
        return self.ask(model, [{"type": "text", "text": "hello"}, paper]).choices[0].message.content

    def structured(self, model):
        form = {"type": "json_schema", "json_schema": {"name": "city", "strict": True, "schema": CITY}}
        return self.ask(model, FACTS, response_format=form).choices[0].message.content

    def thinking(self, model):
        message = self.ask(model, THINK, reasoning_effort="low").choices[0].message
        return message.reasoning_content, message.content

    def refused(self, model):
        with pytest.raises(openai.BadRequestError) as caught:
            self.ask(model, REFUSED)
        return caught.value.status_code, str(caught.value)


class OpenAiResponses:
    """openai-python, Responses."""

    tools = [
        {"type": "function", "name": name, "description": name, "parameters": schema, "strict": True}
        for name, schema in (("get_weather", WEATHER), ("get_time", TIME))
    ]

    def __init__(self, url: str):
        self.client = openai.OpenAI(base_url=f"{url}/v1", api_key=TOKEN, max_retries=0, timeout=PATIENCE)

    def ask(self, model, content, **options):
        return self.client.responses.create(model=model, input=content, store=False, **options)

    def chat(self, model):
        answer = self.ask(model, "hello")
        return answer.output_text, (answer.usage.input_tokens, answer.usage.output_tokens)

    def stream(self, model, text="hello"):
        events = list(self.ask(model, text, stream=True))
        usage = events[-1].response.usage
        pieces = [event.delta for event in events if event.type == "response.output_text.delta"]
        return pieces, (usage.input_tokens, usage.output_tokens)

    def call(self, model):
        events = list(self.ask(model, ONE, tools=self.tools, stream=True))
        deltas = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
        (call,) = [item for item in events[-1].response.output if item.type == "function_call"]
        assert "".join(deltas) == call.arguments
        return call.name, json.loads(call.arguments)

    def parallel(self, model):
        calls = [item for item in self.ask(model, BOTH, tools=self.tools).output if item.type == "function_call"]
        assert [call.name for call in calls] == ["get_weather", "get_time"]
        results = [{"type": "function_call_output", "call_id": call.call_id, "output": "18 degrees"} for call in calls]
        history = [{"role": "user", "content": BOTH}, *(call.model_dump(exclude_none=True) for call in calls), *results]
        return self.ask(model, history, tools=self.tools).output_text

    def _with(self, model, part):
        return self.ask(model, [{"role": "user", "content": [{"type": "input_text", "text": "hello"}, part]}]).output_text

    def image(self, model):
        return self._with(model, {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}", "detail": "auto"})

    def pdf(self, model):
        data = f"data:application/pdf;base64,{PDF}"
        return self._with(model, {"type": "input_file", "filename": "paper.pdf", "file_data": data})

    def structured(self, model):
        form = {"format": {"type": "json_schema", "name": "city", "strict": True, "schema": CITY}}
        return self.ask(model, FACTS, text=form).output_text

    def thinking(self, model):
        answer = self.ask(model, THINK, reasoning={"effort": "low", "summary": "auto"})
        items = [item for item in answer.output if item.type == "reasoning"]
        return items[0].summary[0].text, answer.output_text

    def refused(self, model):
        with pytest.raises(openai.BadRequestError) as caught:
            self.ask(model, REFUSED)
        return caught.value.status_code, str(caught.value)


class Anthropic:
    """anthropic-python."""

    tools = [
        {"name": name, "description": name, "input_schema": schema}
        for name, schema in (("get_weather", WEATHER), ("get_time", TIME))
    ]

    def __init__(self, url: str):
        self.client = anthropic.Anthropic(base_url=url, api_key=TOKEN, max_retries=0, timeout=PATIENCE)

    def ask(self, model, content, **options):
        messages = content if isinstance(content, list) and "role" in content[0] else [{"role": "user", "content": content}]
        return self.client.messages.create(model=model, max_tokens=4096, messages=messages, **options)

    @staticmethod
    def text(answer):
        return "".join(block.text for block in answer.content if block.type == "text")

    def chat(self, model):
        answer = self.ask(model, "hello")
        return self.text(answer), (answer.usage.input_tokens, answer.usage.output_tokens)

    def stream(self, model, text="hello"):
        messages = [{"role": "user", "content": text}]
        with self.client.messages.stream(model=model, max_tokens=4096, messages=messages) as stream:
            pieces = list(stream.text_stream)
            usage = stream.get_final_message().usage
        return pieces, (usage.input_tokens, usage.output_tokens)

    def call(self, model):
        messages = [{"role": "user", "content": ONE}]
        with self.client.messages.stream(model=model, max_tokens=4096, messages=messages, tools=self.tools) as stream:
            pieces = [event.partial_json for event in stream if event.type == "input_json"]
            (call,) = [block for block in stream.get_final_message().content if block.type == "tool_use"]
        assert json.loads("".join(pieces)) == call.input
        return call.name, call.input

    def parallel(self, model):
        first = self.ask(model, BOTH, tools=self.tools)
        calls = [block for block in first.content if block.type == "tool_use"]
        assert [call.name for call in calls] == ["get_weather", "get_time"]
        results = [{"type": "tool_result", "tool_use_id": call.id, "content": "18 degrees"} for call in calls]
        history = [
            {"role": "user", "content": BOTH},
            {"role": "assistant", "content": first.content},
            {"role": "user", "content": results},
        ]
        return self.text(self.ask(model, history, tools=self.tools))

    def _with(self, model, kind, media_type, data):
        source = {"type": "base64", "media_type": media_type, "data": data}
        return self.text(self.ask(model, [{"type": "text", "text": "hello"}, {"type": kind, "source": source}]))

    def image(self, model):
        return self._with(model, "image", "image/png", PNG)

    def pdf(self, model):
        return self._with(model, "document", "application/pdf", PDF)

    def structured(self, model):
        return self.text(self.ask(model, FACTS, output_config={"format": {"type": "json_schema", "schema": CITY}}))

    def thinking(self, model):
        answer = self.ask(model, THINK, thinking={"type": "enabled", "budget_tokens": 1024})
        return answer.content[0].thinking, self.text(answer)

    def refused(self, model):
        with pytest.raises(anthropic.BadRequestError) as caught:
            self.ask(model, REFUSED)
        assert caught.value.body["type"] == "error"
        return caught.value.status_code, str(caught.value)


class Gemini:
    """google-genai."""

    tools = [
        types.Tool(
            function_declarations=[
                types.FunctionDeclaration(name=name, description=name, parameters_json_schema=schema)
                for name, schema in (("get_weather", WEATHER), ("get_time", TIME))
            ]
        )
    ]

    def __init__(self, url: str):
        self.client = genai.Client(api_key=TOKEN, http_options=types.HttpOptions(base_url=url, timeout=PATIENCE * 1000))

    def ask(self, model, contents, **config):
        return self.client.models.generate_content(model=model, contents=contents, config=config or None)

    @staticmethod
    def usage(answer):
        return answer.usage_metadata.prompt_token_count, answer.usage_metadata.candidates_token_count

    def chat(self, model):
        answer = self.ask(model, "hello")
        return answer.text, self.usage(answer)

    def stream(self, model, text="hello"):
        chunks = list(self.client.models.generate_content_stream(model=model, contents=text))
        return [chunk.text for chunk in chunks if chunk.text], self.usage(chunks[-1])

    def call(self, model):
        config = types.GenerateContentConfig(tools=self.tools)
        chunks = list(self.client.models.generate_content_stream(model=model, contents=ONE, config=config))
        (call,) = [call for chunk in chunks for call in chunk.function_calls or []]
        return call.name, call.args

    def parallel(self, model):
        first = self.ask(model, BOTH, tools=self.tools)
        assert [call.name for call in first.function_calls] == ["get_weather", "get_time"]
        results = [
            types.Part(function_response=types.FunctionResponse(id=call.id, name=call.name, response={"result": "18 degrees"}))
            for call in first.function_calls
        ]
        question = types.Content(role="user", parts=[types.Part(text=BOTH)])
        answers = types.Content(role="user", parts=results)
        return self.ask(model, [question, first.candidates[0].content, answers], tools=self.tools).text

    def _with(self, model, mime_type, data):
        return self.ask(model, ["hello", types.Part.from_bytes(data=base64.b64decode(data), mime_type=mime_type)]).text

    def image(self, model):
        return self._with(model, "image/png", PNG)

    def pdf(self, model):
        return self._with(model, "application/pdf", PDF)

    def structured(self, model):
        return self.ask(model, FACTS, response_mime_type="application/json", response_json_schema=CITY).text

    def thinking(self, model):
        config = types.ThinkingConfig(include_thoughts=True, thinking_budget=1024)
        answer = self.ask(model, THINK, thinking_config=config)
        return next(part.text for part in answer.candidates[0].content.parts if part.thought), answer.text

    def refused(self, model):
        with pytest.raises(errors.ClientError) as caught:
            self.ask(model, REFUSED)
        return caught.value.code, str(caught.value)


class LangChain:
    """LangChain over one of its vendor packages."""

    tools = [
        {"type": "function", "function": {"name": name, "description": name, "parameters": schema}}
        for name, schema in (("get_weather", WEATHER), ("get_time", TIME))
    ]

    def __init__(self, url: str):
        self.url = url

    def model(self, model, **options):
        return ChatOpenAI(
            model=model, base_url=f"{self.url}/v1", api_key=TOKEN, max_retries=0, timeout=PATIENCE, stream_usage=True, **options
        )

    refusal = openai.BadRequestError

    @staticmethod
    def usage(message):
        return message.usage_metadata["input_tokens"], message.usage_metadata["output_tokens"]

    def chat(self, model):
        answer = self.model(model).invoke("hello")
        return answer.text, self.usage(answer)

    def stream(self, model, text="hello"):
        pieces = list(self.model(model).stream(text))
        whole = pieces[0]
        for piece in pieces[1:]:
            whole += piece
        return [piece.text for piece in pieces if piece.text], self.usage(whole)

    def call(self, model):
        pieces = list(self.model(model).bind_tools(self.tools).stream(ONE))
        whole = pieces[0]
        for piece in pieces[1:]:
            whole += piece
        (call,) = whole.tool_calls
        return call["name"], call["args"]

    def parallel(self, model):
        bound = self.model(model).bind_tools(self.tools)
        first = bound.invoke(BOTH)
        assert [call["name"] for call in first.tool_calls] == ["get_weather", "get_time"]
        results = [ToolMessage("18 degrees", tool_call_id=call["id"]) for call in first.tool_calls]
        return bound.invoke([HumanMessage(BOTH), first, *results]).text

    def image(self, model):
        part = {"type": "image", "base64": PNG, "mime_type": "image/png"}
        return self.model(model).invoke([HumanMessage([{"type": "text", "text": "hello"}, part])]).text

    def pdf(self, model):
        part = {"type": "file", "base64": PDF, "mime_type": "application/pdf", "filename": "paper.pdf"}
        return self.model(model).invoke([HumanMessage([{"type": "text", "text": "hello"}, part])]).text

    def structured(self, model):
        schema = {"title": "City", "description": "A city", **CITY}
        return json.dumps(self.model(model).with_structured_output(schema, method="json_schema").invoke(FACTS))

    def thinking(self, model):
        # LangChain's OpenAI package drops `reasoning_content`; only the answer can be seen.
        return None, self.model(model, reasoning_effort="low").invoke(THINK).text

    def refused(self, model):
        with pytest.raises(self.refusal) as caught:
            self.model(model).invoke(REFUSED)
        return caught.value.status_code, str(caught.value)


class LangChainAnthropic(LangChain):
    """LangChain over its package for Anthropic."""

    refusal = anthropic.BadRequestError

    def model(self, model, **options):
        return ChatAnthropic(
            model=model, base_url=self.url, api_key=TOKEN, max_retries=0, default_request_timeout=PATIENCE, max_tokens=4096, **options
        )

    def thinking(self, model):
        answer = self.model(model, thinking={"type": "enabled", "budget_tokens": 1024}).invoke(THINK)
        return answer.content[0]["thinking"], answer.text


CLIENTS = {
    "openai-python": OpenAiChat,
    "openai-python-responses": OpenAiResponses,
    "anthropic-python": Anthropic,
    "google-genai": Gemini,
    "langchain-openai": LangChain,
    "langchain-anthropic": LangChainAnthropic,
}
assert CLIENTS.keys() == matrix.PYTHON_CLIENTS.keys(), "the table in the documentation names other clients"


@pytest.fixture(scope="module")
def tap(emulator):
    tap = Tap(emulator)
    yield tap
    tap.stop()


@pytest.fixture(scope="module")
def gateway(start, tap):
    return start(matrix.config(tap))


@pytest.fixture(scope="module", params=CLIENTS)
def client(request, gateway):
    return CLIENTS[request.param](gateway.url)


@pytest.fixture(params=UPSTREAMS)
def upstream(request):
    return request.param


def cell_chat(client, upstream, _tap):
    assert client.chat(upstream) == (TEXT, USAGE)


def cell_stream(client, upstream, _tap):
    pieces, usage = client.stream(upstream)
    assert len(pieces) > 1 and "".join(pieces) == TEXT
    if isinstance(client, LangChainAnthropic) and upstream == "anthropic":
        # Bytes through: the emulator counts the prompt at the end, and LangChain looks for it at the start only.
        assert usage[1] == USAGE[1]
    else:
        assert usage == USAGE


def cell_tools(client, upstream, _tap):
    assert client.call(upstream) == ("get_weather", {"city": "Paris", "unit": "celsius"})


def cell_parallel(client, upstream, tap):
    assert client.parallel(upstream) == PARALLEL
    assert tap.bodies[-1].count(b"18 degrees") == 2


def cell_image(client, upstream, tap):
    assert client.image(upstream) == TEXT
    assert PNG.encode() in tap.bodies[-1] and b"image/png" in tap.bodies[-1]


def cell_pdf(client, upstream, tap):
    assert client.pdf(upstream) == TEXT
    assert PDF.encode() in tap.bodies[-1] and b"application/pdf" in tap.bodies[-1]


def cell_structured(client, upstream, tap):
    assert json.loads(client.structured(upstream)) == {"city": "Paris", "population": 2102650}
    assert b'"population"' in tap.bodies[-1]


def cell_thinking(client, upstream, tap):
    thought, text = client.thinking(upstream)
    assert thought in (None, "Two and two make four.") and text == "Four."
    asked = {"openai": b'"reasoning', "anthropic": b'"budget_tokens"', "gemini": b'"thinkingConfig"'}
    assert asked[upstream] in tap.bodies[-1]


def cell_error(client, upstream, _tap):
    status, message = client.refused(upstream)
    assert status == 400 and "emulated refusal" in message


@pytest.mark.parametrize("feature", FEATURES)
def test_cell(client, upstream, feature, tap):
    globals()[f"cell_{feature}"](client, upstream, tap)


def test_forty_seconds_of_silence_end_no_clients_stream(gateway, record_property):
    clients = [(name, made(gateway.url)) for name, made in CLIENTS.items() if not name.startswith("langchain")]
    cells = [(name, client, upstream) for name, client in clients for upstream in UPSTREAMS]
    with concurrent.futures.ThreadPoolExecutor(len(cells)) as pool:
        answers = [pool.submit(client.stream, upstream, SILENCE) for _, client, upstream in cells]
        for (name, _, upstream), answer in zip(cells, answers, strict=True):
            assert "".join(answer.result()[0]) == TEXT, (name, upstream)
    record_property("silence", f"40 s survived by {len(cells)} streams with a read timeout of {PATIENCE} s")


def test_the_client_with_default_settings_gets_vectors_of_gemini(gateway):
    client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=TOKEN)
    answer = client.embeddings.create(model="vectors", input=["one", "two"])
    assert [item.embedding for item in answer.data] == [[0.25, -0.5, 0.75]] * 2

"""Both vendors' Python clients on `interlock up --engine embedded`: they stream from the same alias."""

import anthropic
import openai
import pytest

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("platform")]
MESSAGES = [{"role": "user", "content": "In one short sentence: what is a warehouse?"}]


def test_both_vendors_clients_stream_from_the_alias_of_the_embedded_model(embedded):
    key = embedded.key("clients")
    with (
        openai.OpenAI(base_url=f"{embedded.url}/v1", api_key=key["key"], max_retries=0, timeout=300) as of_openai,
        anthropic.Anthropic(base_url=embedded.url, api_key=key["key"], max_retries=0, timeout=300) as of_anthropic,
    ):
        # The likeliest words each time: one answer of many drawn ones is a single word.
        asked = {"model": "default", "messages": MESSAGES, "max_tokens": 16, "extra_body": {"temperature": 0}}
        chunks = list(of_openai.chat.completions.create(**asked, stream=True))
        assert len("".join(each.choices[0].delta.content or "" for each in chunks if each.choices).split()) > 2
        with of_anthropic.messages.stream(**asked) as told:
            text = "".join(told.text_stream)
            message = told.get_final_message()
        assert text == message.content[0].text
        assert 2 < message.usage.output_tokens <= 16
        story = embedded.story(told.response.headers["request-id"], embedded.as_key(key["key"]))
        assert (story["endpoint"], story["dialect"], story["outcome"]) == ("/v1/messages", "anthropic", "ok_stream")
        assert story["usage"]["output_tokens"] == message.usage.output_tokens
        answered = of_openai.responses.create(model="default", input="Say hello.", max_output_tokens=8, temperature=0)
        assert answered.output_text.strip()
        estimated = of_anthropic.messages.with_raw_response.count_tokens(model="default", messages=MESSAGES)
        assert estimated.headers["x-interlock-estimated"] == "true"
        assert estimated.parse().input_tokens > 5
        with pytest.raises(openai.BadRequestError) as refused:
            of_openai.embeddings.create(model="default", input="boots")
        assert refused.value.code == "unsupported_parameter"

// The server's OpenAI interface: models, and answers as they come.

/** A failure whose message is a sentence for the reader. */
export class Refusal extends Error {
    constructor(message, status = 0) {
        super(message);
        this.status = status;
    }
}

/** [{id, chat, context}]; chat: the model has a chat template, otherwise it continues texts. */
export async function listModels(key) {
    const answer = await (await ask("/v1/models", key, {})).json();
    return answer.data.map((model) => ({ id: model.id, chat: model.chat !== false, context: model.max_model_len }));
}

/** An answer's stream: yields {text, tokens, finish, usage}; each of them may be missing.
 *
 * request: {model, chat, turns: [{prompt, answer}], system, begun, settings}; `begun` is the beginning of the answer, which is
 * continued. A token is {bytes, logprob, tops: [{text, logprob}]}. */
export async function* answers(request, key, signal) {
    const chat = request.model.chat;
    const body = JSON.stringify(chat ? chatBody(request) : textBody(request));
    const response = await ask(chat ? "/v1/chat/completions" : "/v1/completions", key, { method: "POST", body, signal });
    let finished = false;
    for await (const chunk of events(response)) {
        if (chunk.error) throw new Refusal(sentence(chunk.error.message));
        const choice = chunk.choices[0];
        finished ||= Boolean(choice?.finish_reason);
        yield {
            text: (chat ? choice?.delta?.content : choice?.text) ?? "",
            tokens: chat ? chatTokens(choice?.logprobs) : textTokens(choice?.logprobs),
            finish: choice?.finish_reason, usage: chunk.usage,
        };
    }
    if (!finished) throw new Refusal("The server broke off before the end of the answer.");
}

// ---- requests

function sampling({ temperature, top_p, top_k, max_tokens, seed }) {
    const streaming = { stream: true, stream_options: { include_usage: true } };
    return { temperature, top_p, top_k, max_tokens, ...(seed === null ? {} : { seed }), ...streaming };
}

function chatBody({ model, turns, system, begun, settings }) {
    const messages = system ? [{ role: "system", content: system }] : [];
    for (const [index, { prompt, answer }] of turns.entries()) {
        messages.push({ role: "user", content: prompt });
        if (index < turns.length - 1) messages.push({ role: "assistant", content: answer });
    }
    if (begun) messages.push({ role: "assistant", content: begun });
    return {
        model: model.id, messages, ...sampling(settings), ...(begun ? { continue_final_message: true } : {}),
        ...(settings.tops ? { logprobs: true, top_logprobs: settings.tops } : {}),
    };
}

function textBody({ model, turns, begun, settings }) {
    const earlier = turns.slice(0, -1).map(({ prompt, answer }) => prompt + answer);
    const prompt = [...earlier, turns.at(-1).prompt, begun].join("");
    return { model: model.id, prompt, ...sampling(settings), ...(settings.tops ? { logprobs: settings.tops } : {}) };
}

async function ask(path, key, options) {
    const headers = { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
    let response;
    try {
        response = await fetch(path, { ...options, headers });
    } catch (error) {
        throw error.name === "AbortError" ? error : new Refusal("The server does not answer. Is it still running?");
    }
    if (!response.ok) throw await refusal(response);
    return response;
}

async function refusal(response) {
    const said = (await response.json().catch(() => null))?.error?.message;
    const wait = response.headers.get("Retry-After");
    const again = wait ? ` Try again in ${wait} s.` : "";
    return new Refusal(sentence(said || `The server answered with code ${response.status}`) + again, response.status);
}

function sentence(text) {
    const trimmed = String(text ?? "The server failed").trim();
    return trimmed[0].toUpperCase() + trimmed.slice(1) + (/[.!?]$/.test(trimmed) ? "" : ".");
}

// ---- server-sent events

async function* events(response) {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
        const { value, done } = await reader.read().catch((error) => {
            throw error.name === "AbortError" ? error : new Refusal("The connection to the server broke off.");
        });
        if (done) return;
        const lines = (rest + value).split("\n");
        rest = lines.pop();
        for (const line of lines) {
            const data = /^data: ?(.*?)\r?$/.exec(line)?.[1];
            if (data === "[DONE]") return;
            if (data) yield JSON.parse(data);
        }
    }
}

// ---- log-probabilities

const encoder = new TextEncoder();

function chatTokens(logprobs) {
    return (logprobs?.content ?? []).map(({ token, bytes, logprob, top_logprobs }) => ({
        bytes: bytes ? Uint8Array.from(bytes) : encoder.encode(token), logprob,
        tops: (top_logprobs ?? []).map((top) => ({ text: top.token, logprob: top.logprob })),
    }));
}

function textTokens(logprobs) {
    return (logprobs?.tokens ?? []).map((token, index) => ({
        bytes: logprobs.bytes ? Uint8Array.from(logprobs.bytes[index]) : encoder.encode(token),
        logprob: logprobs.token_logprobs[index],
        tops: Object.entries(logprobs.top_logprobs?.[index] ?? {}).map(([text, logprob]) => ({ text, logprob })),
    }));
}

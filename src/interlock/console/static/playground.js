// Shows an answer while it is written; without this file the form brings the whole one, on a page of its own.
(() => {
  const form = document.getElementById("playground");
  const outcome = document.getElementById("outcome");
  const told = document.getElementById("told");
  let calling = null;

  const begin = () => {
    outcome.replaceChildren(document.getElementById("answering").content.cloneNode(true));
    calling = new AbortController();
    outcome.querySelector("[data-stop]").addEventListener("click", () => calling.abort());
    told.textContent = "Asked.";
    return outcome.querySelector(".answer");
  };
  const take = {
    begun(content, place) {
      const story = outcome.querySelector("[data-story]");
      story.href = `/console/requests/${encodeURIComponent(JSON.parse(content))}`;
      story.hidden = false;
      outcome.querySelector("[data-state]").textContent = "answering";
    },
    text(content, place) { place.append(JSON.parse(content)); },
    end(content) {
      outcome.innerHTML = content;
      told.textContent = `The model ${outcome.querySelector("[data-state]").textContent}.`;
    },
  };
  const stopped = (words) => {
    const state = outcome.querySelector("[data-state]");
    state.textContent = words;
    outcome.querySelector("[data-stop]")?.remove();
    told.textContent = `The call was ${words}.`;
  };
  const follow = async (body, place) => {
    let rest = "";
    for (let piece = await body.read(); !piece.done; piece = await body.read()) {
      const blocks = (rest + piece.value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const lines = block.split("\n");
        const name = lines.find((line) => line.startsWith("event: "))?.slice(7);
        const content = lines.filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
        take[name]?.(content, place);
      }
    }
    if (outcome.querySelector("[data-stop]")) stopped("cut off");
  };
  form.addEventListener("submit", async (event) => {
    if (!form.elements.stream.checked) return;
    event.preventDefault();
    const body = new URLSearchParams(new FormData(form));
    calling?.abort();
    const place = begin();
    const own = calling;
    try {
      const answer = await fetch(form.dataset.stream, { method: "POST", body, signal: own.signal });
      // What is no stream is a page that says why; the form brings it.
      if (!answer.headers.get("content-type")?.startsWith("text/event-stream")) form.submit();
      else await follow(answer.body.pipeThrough(new TextDecoderStream()).getReader(), place);
    } catch {
      if (own === calling) stopped(own.signal.aborted ? "stopped" : "cut off");
    }
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
})();

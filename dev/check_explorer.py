"""Use the explorer in headless Chromium as people do, and check what each click changes.

    venv/bin/pip install playwright
    venv/bin/python dev/check_explorer.py CKPT --beside PAUSE --parallel LOTUS --plain FOLDER [--pictures DIR]

CKPT, in its run's folder, and PAUSE are checkpoints of chains such as `3+5*2-7+1`; LOTUS one that thinks in parallel; FOLDER a plain model,
such as SmolLM2. What the page shows is held against what the server says to a client that is no browser.
"""

import argparse
import json
import math
import os
import re
import subprocess
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from playwright.sync_api import expect, sync_playwright

ROOT = Path(__file__).parents[1]
QUESTION = "3+5*2-7+1"
DONOR = "9-4*3+8-2"


class Server:
    """`coconut serve`, and what it says to a client that is no browser."""

    def __init__(self, binary, arguments, token=""):
        environment = os.environ | {"COCONUT_TOKEN": token}
        command = [binary, "serve", "--port=0", *map(str, arguments)]
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if found := re.search(r"http://[^;]+", line):
                self.url = found[0]
                return
        raise SystemExit(f"{command} ended")

    def text(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(self.url + path, data) as answer:
            return answer.read().decode()

    def ask(self, **body):
        whole = {"prompt": QUESTION, "thoughts": 5, "logprobs": 20, "max_tokens": 64} | body
        return json.loads(self.text("/v1/completions", whole))["choices"][0]

    def rows(self):
        return float(re.search(r"^coconut_rows_running (.*)$", self.text("/metrics"), re.MULTILINE)[1])

    def end(self):
        self.process.kill()
        self.process.wait()


class Page:
    """The explorer in a browser; whatever the console complains of, or is asked of another address, fails."""

    def __init__(self, browser, server, **options):
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.server = server
        self.complaints = []
        self.page.on("console", lambda said: said.type in ("error", "warning") and self.complaints.append(said.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.asked(request.url))

    def asked(self, url):
        if not url.startswith((self.server.url, "data:")):
            self.complaints.append(f"asked for {url}")

    def open(self, fragment=""):
        self.page.goto(f"{self.server.url}/{fragment}")

    def ask(self, question):
        self.page.get_by_label("Question", exact=True).fill(question)
        self.page.get_by_role("button", name="Ask").click()

    def model(self, number=0):
        return self.page.locator(".model").nth(number)

    def cards(self, number=0):
        return self.model(number).get_by_role("button", name=re.compile("^Thought "))

    def done(self):
        expect(self.page.get_by_role("status")).to_contain_text(re.compile("the answer is|no answer"), timeout=120_000)

    def click(self, name):
        self.page.get_by_role("button", name=name, exact=True).click()

    def texts(self, number=0):
        model = self.model(number)
        return [text.strip() for text in model.locator("dl.said dd").all_inner_texts()]

    def edit(self):
        return self.page.get_by_label("edit", exact=True).input_value()

    def close(self, expected=()):
        left = [said for said in self.complaints if not any(word in said for word in expected)]
        assert not left, left
        self.context.close()


def shown(token):
    return token.replace(" ", "␣").replace("\n", "⏎")


def percent(p):
    return "100 %" if p >= 0.995 else "<1 %" if p < 0.01 else f"{math.floor(100 * p + 0.5)} %"


def close_enough(ours, theirs):
    """Whether two shown percentages are the same but for the last digit's rounding."""
    number = lambda text: 0 if text.startswith("<") else int(text.split()[0])
    return abs(number(ours) - number(theirs)) <= 1


def check_answer(view, row, expected, plain=None):
    """Holds one row of the table of probabilities against the server's answer, and its changes against the plain one."""
    cells = view.locator("table.answers tbody tr").nth(row).locator("td")
    logprobs = expected["logprobs"]
    assert cells.count() >= min(len(logprobs["tokens"]), 12)
    for at, token in enumerate(logprobs["tokens"][:12]):
        said = cells.nth(at).locator(".likely.said")
        assert said.locator(".name").inner_text() == shown(token), (at, token)
        value = said.locator(".value").inner_text()
        assert close_enough(value, percent(math.exp(logprobs["token_logprobs"][at]))), (value, at)
        top = set(cells.nth(at).locator(".likely .name").all_inner_texts())
        best = sorted(logprobs["top_logprobs"][at].items(), key=lambda pair: -pair[1])[:5]
        likely = {shown(name) for name, p in best if math.exp(p) >= 0.01}
        assert likely <= top <= {shown(name) for name in logprobs["top_logprobs"][at]}, (likely, top)
        same = plain and logprobs["tokens"][:at] == plain["logprobs"]["tokens"][:at]
        before = plain["logprobs"]["top_logprobs"][at].get(token) if same else None
        delta = 0 if before is None else math.exp(logprobs["token_logprobs"][at]) - math.exp(before)
        if abs(delta) > 0.006:
            told = said.locator(".delta").inner_text().replace("−", "-")
            assert abs(int(told) - 100 * delta) <= 1, (told, delta)


def check_cards(page, expected, number=0):
    cards = page.cards(number)
    expect(cards).to_have_count(len(expected["thoughts"]))
    for at, thought in enumerate(expected["thoughts"]):
        token, p = thought["tokens"][0]
        card = cards.nth(at)
        expect(card).to_have_attribute("aria-label", re.compile(f"^Thought {at + 1}: {re.escape(shown(token))} "))
        names = [shown(name) for at, (name, p) in enumerate(thought["tokens"]) if at == 0 or p >= 0.01]
        assert card.locator(".likely .name").all_inner_texts() == names
        if thought["length"] is not None:
            assert f"{thought['length']:.2f}" in card.locator(".head").inner_text()


def check_clicks(browser, server, names):
    page = Page(browser, server)
    page.open()
    expect(page.page).to_have_title(f"{names[0]} beside {names[1]} · coconut explorer")
    page.ask(QUESTION)
    page.done()
    plain = [server.ask(model=name) for name in names]
    for number, answer in enumerate(plain):
        view = page.model(number)
        assert page.texts(number) == [answer["text"].strip()], (page.texts(number), answer["text"])
        check_cards(page, answer, number)
        check_answer(view, 0, answer)
        tokens = view.locator(".token").all_inner_texts()
        others = [t for i, t in enumerate(answer["prompt"]["tokens"]) if i not in answer["prompt"]["latents"]]
        assert tokens == [shown(token) for token in others], tokens
    cosines = page.model().locator("table.cosines tbody tr")
    assert cosines.count() == len(plain[0]["thoughts"]) - 1
    last = [f"{x:.2f}".replace("-", "−") for x in plain[0]["thoughts"][-1]["cosines"]]
    assert cosines.last.locator("td").all_inner_texts() == last
    # Nothing is fed back to a pause token: it cannot be changed, and the page says so.
    expect(page.model(1)).to_contain_text("nothing is fed back")
    expect(page.cards(1).first).to_have_attribute("aria-disabled", "true")
    assert page.model(1).locator("table.cosines").count() == 0

    def changes(edit, **more):
        page.done()
        expected = server.ask(model=names[0], edit=edit, **more)
        expect(page.model().locator("dl.said dt").nth(1)).to_have_text(edit)
        assert page.edit() == edit
        assert page.texts() == [plain[0]["text"].strip(), expected["text"].strip()], (edit, page.texts())
        check_cards(page, expected)
        check_answer(page.model(), 0, plain[0])
        check_answer(page.model(), 1, expected, plain[0])
        assert page.texts(1) == [plain[1]["text"].strip()], "the other model is not edited"
        said = page.page.get_by_role("status").inner_text()
        assert f"with {edit} “{expected['text'].strip()}”" in said, said
        return expected

    page.cards().nth(1).click()
    expect(page.cards().nth(1)).to_have_attribute("aria-pressed", "true")
    page.click("zero")
    zero = changes("zero@2")
    expect(page.cards().nth(1)).to_contain_text("0.00")
    expect(page.cards().nth(1)).to_contain_text("was ")
    expect(page.cards().nth(1)).to_have_class(re.compile("edited"))
    assert page.model().locator(".edited").count() == 1
    assert zero["thoughts"][1]["length"] == 0
    assert page.cards().nth(0).locator(".was").count() == 0, "what is before the edit stays"

    page.cards().nth(3).click()
    page.page.get_by_label("of lengths").fill("2")
    page.click("noise")
    changes("noise[2]@4")
    page.page.get_by_label("here thought").select_option("1")
    page.click("move")
    changes("move[1]@4")
    page.click("swap")
    expect(page.page.get_by_role("alert").first).to_contain_text("Write the question")
    page.page.get_by_label("with the question").fill(DONOR)
    page.click("swap")
    swapped = changes("transplant@4", donor=DONOR)
    donor = server.ask(prompt=DONOR, model=names[0])
    assert abs(swapped["thoughts"][3]["length"] - donor["thoughts"][3]["length"]) < 1e-6
    page.page.get_by_role("combobox", name="at which thought").select_option("all")
    page.click("swap")
    whole = changes("transplant@all", donor=DONOR)
    print(f"  {QUESTION} → {plain[0]['text']!r}; zero@2 → {zero['text']!r}; "
          f"with all thoughts of {DONOR} ({donor['text']!r}) → {whole['text']!r}")
    page.click("permute")
    changes("permute@all")
    page.page.get_by_text("the edit as").click()
    page.page.get_by_label("edit", exact=True).fill("random@first[3]")
    page.click("apply")
    changes("random@first[3]")
    assert page.model().locator(".edited").count() == 3
    page.page.get_by_label("edit", exact=True).fill("random@sometimes")
    page.click("apply")
    expect(page.model().get_by_role("alert")).to_contain_text("`sometimes` is not known")
    page.click("undo")
    page.done()
    expect(page.model().locator(".failure")).to_have_text("")
    assert page.texts() == [plain[0]["text"].strip()]
    assert page.cards().locator(".was").count() == 0

    page.page.get_by_label("latents").fill("3")
    page.page.get_by_label("latents").blur()
    expect(page.cards()).to_have_count(3)
    page.done()
    check_cards(page, server.ask(model=names[0], latents=3))
    check_cards(page, server.ask(model=names[1], latents=3), 1)
    page.cards().nth(2).click()
    page.click("zero")
    page.done()
    # All of it is in the address: a page that is loaded again shows the same.
    before = (page.texts(), page.texts(1), page.edit(), page.cards().count())
    page.page.reload()
    page.done()
    expect(page.model().locator("dl.said dt")).to_have_count(2)
    assert before == (page.texts(), page.texts(1), page.edit(), page.cards().count())
    page.ask("<img src=x onerror=alert(1)>")
    page.done()
    assert page.page.locator("main img").count() == 0
    # The console tells of the two requests that were refused.
    page.close(expected=["status of 400"])


def check_keyboard(browser, server):
    page = Page(browser, server)
    page.open()
    keys = page.page.keyboard
    focused = lambda: page.page.evaluate("document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent ?? ''")

    def tab_to(start):
        for _ in range(30):
            keys.press("Tab")
            if focused().startswith(start):
                return
        raise SystemExit(f"the Tab key does not reach {start}; last {focused()}")

    expect(page.page.get_by_role("button", name="Ask")).to_be_visible()
    keys.press("Tab")
    assert page.page.evaluate("document.activeElement.id") == "question"
    keys.type(QUESTION)
    keys.press("Enter")
    page.done()
    tab_to("Thought 1")
    for key, number in [("ArrowRight", 2), ("ArrowRight", 3), ("ArrowLeft", 2), ("End", 8), ("Home", 1), ("ArrowRight", 2)]:
        keys.press(key)
        assert focused().startswith(f"Thought {number}:"), (key, focused())
    keys.press("Enter")
    expect(page.cards().nth(1)).to_have_attribute("aria-pressed", "true")
    assert focused().startswith("Thought 2:"), "focus stays"
    tab_to("zero")
    keys.press("Enter")
    expect(page.model().locator("dl.said dt").nth(1)).to_have_text("zero@2")
    page.done()
    assert page.texts()[1] == server.ask(edit="zero@2")["text"].strip()
    assert focused() == "zero", "focus stays on the button"
    # Everything that can be used has a name, and so has every region.
    nameless = page.page.evaluate("""() => [...document.querySelectorAll('button, input, select, textarea, [role=region], [role=group], section')]
      .filter((e) => e.offsetParent !== null && !(e.getAttribute('aria-label') || e.labels?.length || e.textContent.trim()
        || document.getElementById(e.getAttribute('aria-labelledby'))))
      .map((e) => e.outerHTML)""")
    assert not nameless, nameless
    snapshot = page.page.locator("body").aria_snapshot()
    for part in ["heading \"Explorer\"", "textbox \"Question\"", "button \"Thought 2:", "[pressed]", "status", "group \"Change thoughts\"", "table \""]:
        assert part in snapshot, (part, snapshot)
    page.close()


CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgb = (color, below) => { canvas.fillStyle = below; canvas.fillRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3); };
  const light = (c) => c.map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const bar = getComputedStyle(document.documentElement).getPropertyValue('--bar');
  const found = [];
  for (const e of document.querySelectorAll('p, h1, h2, h3, dt, dd, td, th, caption, button, label, .token, .name, .head, .was, .delta')) {
    if (!e.offsetParent || !e.textContent.trim()) continue;
    let ground = 'transparent';
    for (let up = e; up && ground === 'transparent'; up = up.parentElement) {
      if (up.classList.contains('likely')) ground = bar;
      const own = getComputedStyle(up).backgroundColor;
      if (ground === 'transparent' && !/, 0\\)$/.test(own)) ground = own;
    }
    const paper = getComputedStyle(document.body).backgroundColor;
    const [a, b] = [light(rgb(getComputedStyle(e).color, paper)), light(rgb(ground, paper))];
    found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.className || e.tagName, e.textContent.slice(0, 20)]);
  }
  return found.sort((x, y) => x[0] - y[0]);
}"""


def check_looks(browser, server, pictures):
    """No page wider than its screen, and text that can be read in both schemes."""
    for scheme in ["light", "dark"]:
        for width, height in [(390, 844), (1280, 1180)]:
            page = Page(browser, server, viewport={"width": width, "height": height}, color_scheme=scheme)
            page.open(f"#q={QUESTION.replace('+', '%2B')}&edit=zero@2")
            page.done()
            expect(page.model().locator("dl.said dt").nth(1)).to_have_text("zero@2")
            wide = page.page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, (wide, width)
            least = page.page.evaluate(CONTRAST)[0]
            assert least[0] >= 4.5, least
            print(f"  {scheme}, {width} pixels: {wide} wide, least contrast {least[0]:.1f}")
            if pictures:
                page.cards().nth(1).click()
                page.page.mouse.move(0, 0)
                page.page.screenshot(path=pictures / f"explorer-{scheme}-{width}.png")
            page.close()


def check_reload(browser, server):
    """A page that is loaded again in the middle of an answer frees the row and loses nothing."""
    page = Page(browser, server)
    page.open()
    expect(page.model()).to_contain_text("has no thoughts")
    text = "The history of the steam engine begins with"
    page.page.get_by_label("most tokens").fill("150")
    page.ask(text)
    expect(page.page.locator("#change")).to_be_hidden()
    expect(page.model().locator("dl.said dd")).to_contain_text(re.compile(r"\w+ \w+ \w+"), timeout=60_000)
    assert server.rows() == 1
    page.page.reload()
    most = 0
    expect(page.model().locator("dl.said dd")).to_contain_text(re.compile(r"\w+ \w+"), timeout=60_000)
    for _ in range(10):
        most = max(most, server.rows())
        time.sleep(0.05)
    assert most == 1, f"{most} rows: the one before was not freed"
    page.done()
    expected = server.ask(prompt=text, max_tokens=150)["text"].strip()
    assert page.texts() == [expected]
    # Another question takes the place of one that is being answered.
    page.ask("Once upon a time there")
    expect(page.page.get_by_role("status")).to_have_text("answering …", timeout=60_000)
    page.ask(text)
    page.done()
    expect(page.model().locator("dl.said dd")).to_have_text(expected, timeout=60_000)
    page.page.close()
    for _ in range(100):
        if server.rows() == 0:
            break
        time.sleep(0.05)
    assert server.rows() == 0


def check_iterations(browser, server):
    page = Page(browser, server)
    page.open(f"#q={QUESTION.replace('+', '%2B')}")
    page.done()
    dial = page.page.get_by_label("iterations")
    usual = json.loads(server.text("/v1/models"))["data"][0]["iterations"]
    expect(dial).to_have_attribute("placeholder", str(usual))
    for times in [1, usual + 2]:
        dial.fill(str(times))
        dial.blur()
        page.done()
        expected = server.ask(iterations=times)
        expect(page.cards().first.locator(".head")).to_contain_text(f"{expected['thoughts'][0]['length']:.2f}")
        check_cards(page, expected)
        check_answer(page.model(), 0, expected)
    page.close()


def check_token(browser, server):
    page = Page(browser, server)
    page.open(f"#q={QUESTION.replace('+', '%2B')}")
    field = page.page.get_by_label("The server's token")
    expect(field).to_be_focused()
    expect(page.page.get_by_label("Question", exact=True)).to_be_hidden()
    field.fill("wrong")
    page.click("Enter")
    expect(field).to_have_value("")
    expect(field).to_be_visible()
    field.fill("secret")
    page.click("Enter")
    page.done()
    expect(page.cards().first).to_be_visible()
    expect(field).to_be_hidden()
    page.page.reload()
    page.done()
    assert "secret" not in page.page.url and "secret" not in page.page.content()
    page.close(expected=["status of 401"])


def check_other_sites(browser, server, place):
    """A page of another site gets nothing computed, nor does one whose name was made to lead to this machine."""
    computed = lambda: re.search(r"^coconut_prompt_tokens_total (.*)$", server.text("/metrics"), re.MULTILINE)[1]
    server.ask()
    before = computed()
    port = server.url.rsplit(":", 1)[1]
    context = browser.new_context()
    page = context.new_page()
    # Another server of this machine, since browsers let pages from elsewhere ask nothing of it anyway.
    other = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=place))
    Thread(target=other.serve_forever, daemon=True).start()
    page.goto(f"http://localhost:{other.server_port}/")
    # As a browser sends it without asking first whether it may.
    said = page.evaluate("""url => fetch(url + '/v1/completions', { method: 'POST', mode: 'no-cors', body: '{"prompt": "1+1"}' })
      .then(() => "answered", () => "refused")""", server.url)
    other.shutdown()
    assert said == "refused" and computed() == before, said
    assert 'coconut_requests_total{path="/v1/completions",status="403"} 1' in server.text("/metrics")
    assert page.goto(f"http://rebound.example:{port}/").status == 403
    assert page.evaluate("fetch('/v1/models').then((answer) => answer.status)") == 403
    assert computed() == before
    server.ask()
    assert computed() != before
    context.close()


def check_report(browser, server, binary, run, place):
    """A sample of a run's report leads to the explorer, which asks its question."""
    subprocess.run([binary, "report", run, "--out", place], check=True, capture_output=True)
    page = Page(browser, server)
    page.page.goto(f"file://{place}/report.html")
    link = page.page.get_by_role("link", name="open in the explorer")
    page.page.get_by_text("Samples", exact=True).scroll_into_view_if_needed()
    page.page.locator("details").last.locator("summary").click()
    href = link.last.get_attribute("href")
    assert href.startswith("http://127.0.0.1:8000/#q="), href
    # The server of this check listens on another port.
    link.last.evaluate("(a, url) => { a.href = url + '/' + a.hash; }", server.url)
    question = page.page.locator(".sample").last.locator("dd").first.inner_text()
    link.last.click()
    page.done()
    expect(page.page.get_by_label("Question", exact=True)).to_have_value(question)
    assert page.texts() == [server.ask(prompt=question)["text"].strip()]
    print(f"  {question} from the report: {page.texts()[0]}")
    page.complaints = [said for said in page.complaints if not said.startswith("asked for file://")]
    page.close()


def check_gone(browser, server):
    page = Page(browser, server)
    page.open(f"#q={QUESTION.replace('+', '%2B')}")
    page.done()
    server.end()
    page.ask("1+1")
    expect(page.model().get_by_role("alert")).to_contain_text("The server does not answer")
    page.close(expected=["ERR_CONNECTION_REFUSED"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--beside", type=Path, required=True)
    parser.add_argument("--parallel", type=Path, required=True)
    parser.add_argument("--plain", type=Path, required=True)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--coconut", type=Path, default=ROOT / "target/release/coconut")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    options = parser.parse_args()

    @contextmanager
    def serving(*arguments, token=""):
        server = Server(options.coconut, arguments, token)
        try:
            yield server
        finally:
            server.end()

    if options.pictures:
        options.pictures.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as place:
        browser = playwright.chromium.launch(executable_path=options.chromium, args=["--no-sandbox", f"--disk-cache-dir={place}", "--host-resolver-rules=MAP rebound.example 127.0.0.1"])
        pair = (options.checkpoint, "--beside", options.beside)
        with serving(*pair) as server:
            names = [model["id"] for model in json.loads(server.text("/v1/models"))["data"]]
            print("clicks", flush=True)
            check_clicks(browser, server, names)
            print("looks", flush=True)
            check_looks(browser, server, options.pictures)
        with serving(options.checkpoint) as server:
            print("keyboard", flush=True)
            check_keyboard(browser, server)
            print("other sites", flush=True)
            check_other_sites(browser, server, place)
            print("report", flush=True)
            check_report(browser, server, options.coconut, options.checkpoint.absolute().parents[1], place)
            check_gone(browser, server)
        with serving(options.parallel) as server:
            print("iterations", flush=True)
            check_iterations(browser, server)
        with serving(options.checkpoint, token="secret") as server:
            print("token", flush=True)
            check_token(browser, server)
        with serving(options.plain) as server:
            print("reload", flush=True)
            check_reload(browser, server)
        browser.close()
    print("the explorer does what it shows")


if __name__ == "__main__":
    main()

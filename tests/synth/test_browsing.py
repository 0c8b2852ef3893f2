"""The page of rows: filters against the same filters in Python, where rows come from, and a browser that uses it."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import closing

import httpx
import pytest
from tests.serve.server.chromium import PROGRAM, browser
from tests.synth.misbehaving import Misbehaving
from tests.synth.recipes import bound, run

from amaru.errors import ArtifactError
from amaru.report.rows import rows_page
from amaru.synth import session
from amaru.synth.browsing import PAGE, Browser
from amaru.synth.store import Store

NOBODY = "http://127.0.0.1:1/v1"
WORDS = ("Llama", "river", 'a "quoted" word', "naïve", "<b>bold</b>")
ROWS = [{"n": n, "text": f"{WORDS[n % 5]} number {n}", "level": ("easy", "hard")[n % 2]} for n in range(130)]
STEPS = [
    {"name": "seeds", "kind": "seeds", "rows": [*ROWS, {"n": 0, "text": "LLAMA number 7"}, {"n": 0, "text": "Llama  number 7"}]},
    {"name": "distinct", "kind": "unique", "column": "text"},
    {"name": "small", "kind": "filter", "where": "n < 100"},
]


@pytest.fixture
def opened(tmp_path):
    asyncio.run(run(bound(NOBODY, STEPS), tmp_path / "s.sqlite"))
    with Store(tmp_path / "s.sqlite", reading=True) as store, Browser(bound(NOBODY, STEPS), store, rows_page("Rows & more")) as browser:
        yield browser


def get(browser, path, **query):
    return httpx.get(f"{browser.url}/{path}", params=query, trust_env=False).raise_for_status().json()


def test_steps_and_rows_that_were_made_and_left_out_are_counted(opened):
    facts = get(opened, "facts")["steps"]
    assert [step["name"] for step in facts] == ["small", "distinct", "seeds"]
    assert facts[0]["counts"] == {"made": 101, "dropped": 30} and facts[1]["counts"] == {"made": 131, "dropped": 1}
    assert set(facts[0]["columns"]) == {"n", "text", "level"}


@pytest.mark.parametrize("text", ["llama", '"quoted"', "NUMBER 1", "<b>", "nothing like it"])
def test_filters_keep_what_the_same_filter_in_python_keeps_in_the_order_of_the_recipe(opened, text):
    kept = [row for row in ROWS if row["n"] < 100 and text.lower() in row["text"].lower() and row["level"] == "easy"]
    found = get(opened, "rows", step="small", text=text, column="level", value="easy")
    assert found["count"] == len(kept)
    assert [row["columns"] for row in found["rows"]] == kept[:PAGE]


def test_pages_follow_each_other(opened):
    pages = [get(opened, "rows", step="small", offset=offset)["rows"] for offset in (0, 50, 100, 150)]
    assert [row["columns"]["n"] for page in pages for row in page] == [*range(100), 0] and not pages[-1]


def test_a_row_tells_where_it_came_from_and_what_it_is_a_copy_of(opened):
    (copy,) = get(opened, "rows", step="distinct", state="dropped")["rows"]
    told = get(opened, "row", key=copy["key"], unit=copy["unit"])
    (kept,) = [row for row in get(opened, "rows", step="seeds", text="LLAMA number 7")["rows"] if row["columns"]["text"][:5] == "LLAMA"]
    assert (copy["reason"], told["matched"]) == ("equal to another row", {"item": kept["key"], "similarity": 1.0, "words": None})
    row = get(opened, "rows", step="small")["rows"][3]
    assert [step["step"] for step in get(opened, "row", key=row["key"])["steps"]] == ["small", "distinct", "seeds"]


def test_it_answers_this_machine_alone_and_needs_nothing_from_elsewhere(opened):
    page = httpx.get(opened.url, trust_env=False).text
    assert "Rows &amp; more" in page and not re.search(r'(src|href)="(?!data:)', page)
    wrong = (({"Host": "evil.example:80"}, "facts", 403), ({}, "store.sqlite", 404), ({}, "rows?offset=x&step=a", 400))
    for headers, path, status in wrong:
        assert httpx.get(f"{opened.url}/{path}", headers=headers, trust_env=False).status_code == status


def test_calls_of_a_row_are_shown_and_a_run_may_go_on_meanwhile(tmp_path):
    async def body():
        async with Misbehaving() as server:
            recipe = bound(server.url)
            await run(recipe, tmp_path / "s.sqlite")
            return recipe

    recipe = asyncio.run(body())
    with Store(tmp_path / "s.sqlite"), Store(tmp_path / "s.sqlite", reading=True) as store, Browser(recipe, store, "") as opened:
        row = opened.rows("answers")["rows"][0]
        call = opened.row(row["key"])["steps"][0]["calls"][0]
    assert call["answer"] == row["columns"]["answer"] and row["columns"]["asked"] in call["request"]["messages"][0]["content"]


def test_a_directory_without_rows_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="holds no synthetic data"):
        session.opened(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({"kind": "train"}))
    with pytest.raises(ArtifactError, match="is a train run"):
        session.run(bound(NOBODY, STEPS), tmp_path)


@pytest.mark.soak
@pytest.mark.skipif(PROGRAM is None, reason="needs Chromium")
def test_a_hundred_thousand_rows_in_a_browser(tmp_path):
    rows = [{"n": n, "text": f"{WORDS[n % 5]} number {n}. " * 8} for n in range(100_000)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    steps = [{"name": "seeds", "kind": "seeds", "file": "rows.jsonl"}, {"name": "odd", "kind": "filter", "where": "n % 2"}]
    session.run(bound(NOBODY, steps, directory=tmp_path), tmp_path / "out")
    words = [sys.executable, "-m", "amaru", "synth", "browse", str(tmp_path / "out"), "--json"]
    start = time.monotonic()
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as serving, closing(serving.stdout) as said:
        said.readline()
        url = json.loads("{" + said.readline() + "}")["url"]
        ready = time.monotonic() - start
        with browser(tmp_path / "profile") as page:
            page.open(url)
            page.until("document.querySelectorAll('article').length === 50")
            assert page.evaluate("document.getElementById('count').textContent") == "1 to 50 of 50,000"
            start = time.monotonic()
            page.evaluate("filters.text.value = 'number 777'; filters.dispatchEvent(new Event('input'))")
            page.until("document.getElementById('count').textContent.endsWith('of 56')")
            found = time.monotonic() - start
            page.evaluate("document.getElementById('after').click()")
            page.until("document.querySelectorAll('article').length === 6")
            page.evaluate("document.querySelector('article button').click()")
            page.until("document.querySelectorAll('.from h3').length === 2")
            assert page.evaluate("document.querySelectorAll('article b').length") == 0  # text is text
            assert not page.complaints and all(each.startswith((url, "data:", "about:")) for each in page.requests)
            page.screenshot(tmp_path / "page.png")
        print(f"ready after {ready:.1f} s; a filter over 50,000 rows took {found:.2f} s; {resident(serving.pid) / 2**20:.0f} MiB")
        assert resident(serving.pid) < 2**30
        serving.send_signal(signal.SIGINT)
        assert serving.wait(20) == 0


def resident(process):
    with open(f"/proc/{process}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

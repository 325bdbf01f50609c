"""The report in a real browser, opened as a file: behaviour, reach by keyboard, colours, width."""

import csv
import io

import pytest

from tests.browser.conftest import HOSTILE

pytestmark = pytest.mark.browser
RUNS = "#runs-table"


@pytest.fixture
def opened(chromium, report):
    """`opened(width=..., color_scheme=...)`: the page; whatever it complains about or requests fails the test."""
    contexts, complaints = [], []

    def watch(route):
        if route.request.url != report.as_uri() and not route.request.url.startswith("data:"):
            complaints.append(f"request: {route.request.url}")
            route.abort()
        else:
            route.continue_()

    def call(width=1200, height=900, **options):
        context = chromium.new_context(viewport={"width": width, "height": height}, reduced_motion="reduce", **options)
        contexts.append(context)
        tab = context.new_page()
        tab.set_default_timeout(5000)
        tab.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        tab.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        tab.route("**/*", watch)
        tab.goto(report.as_uri())
        return tab

    yield call
    for context in contexts:
        context.close()
    assert complaints == []


def column(tab, title):
    """The visible cells of a column of the runs, top to bottom."""
    return tab.evaluate(
        """([table, title]) => {
            const heads = [...document.querySelectorAll(`${table} th`)].map(head => head.textContent);
            const rows = [...document.querySelectorAll(`${table} tbody tr`)].filter(row => !row.hidden);
            return rows.map(row => row.cells[heads.indexOf(title)].textContent);
        }""",
        [RUNS, title],
    )


def head(tab, title):
    return tab.locator(f"{RUNS} th", has=tab.get_by_role("button", name=title, exact=True))


def test_sorting_orders_numbers_as_numbers_and_puts_the_unknown_last(opened):
    tab = opened()
    before = column(tab, "val loss")
    button = head(tab, "val loss").get_by_role("button")
    for direction, reverse in (("ascending", False), ("descending", True)):
        button.click()
        assert head(tab, "val loss").get_attribute("aria-sort") == direction
        shown = column(tab, "val loss")
        assert shown[-1] == "–" and shown.count("–") == 1
        numbers = [float(cell) for cell in shown[:-1]]
        assert numbers == sorted(numbers, reverse=reverse) and len(set(numbers)) > 10
    head(tab, "dataset").get_by_role("button").click()
    assert head(tab, "val loss").get_attribute("aria-sort") == "none"
    assert column(tab, "dataset") == sorted(column(tab, "dataset"))
    for _ in range(2):
        head(tab, "dataset").get_by_role("button").click()
    assert column(tab, "val loss") == before  # the third click restores the order that was


def test_hidden_widths_sort_by_size_not_by_letter(opened):
    tab = opened()
    head(tab, "hidden").get_by_role("button").click()
    assert column(tab, "hidden") == ["64"] * 48 + ["128"] * 48


def test_search_and_choices_narrow_the_runs_together(opened):
    tab = opened()
    status = tab.locator(f"{RUNS} [role=status]")
    assert status.text_content() == "96 of 96 rows"
    tab.locator(RUNS).get_by_label("activation", exact=True).select_option("tanh")
    assert set(column(tab, "activation")) == {"tanh"} and status.text_content() == "48 of 96 rows"
    tab.locator(RUNS).get_by_label("Search", exact=True).fill("MINE frozen")
    assert set(zip(column(tab, "dataset"), column(tab, "first layer"), strict=True)) == {("mine", "frozen")}
    assert status.text_content() == "12 of 96 rows"
    tab.locator(RUNS).get_by_label("Search", exact=True).fill("no such run")
    assert column(tab, "run") == [] and status.text_content() == "0 of 96 rows"


def test_failed_runs_are_said_to_be_failed(opened):
    tab = opened()
    tab.locator(RUNS).get_by_label("failed", exact=True).select_option("failed")
    assert column(tab, "run") == ["run-3", "run-5"]
    assert "2 failed" in tab.locator("#top").inner_text()
    assert tab.locator("#C1 .chips .verdict").count() == 2


def copied(tab, name, form):
    """What the clipboard holds after a click, pasted the way a user pastes."""
    tab.locator(name).get_by_role("button", name=form).click()
    tab.locator(f"{name} [role=status]", has_text="Copied").wait_for()
    tab.evaluate("document.body.prepend(Object.assign(document.createElement('textarea'), {id: 'paste'}))")
    tab.locator("#paste").focus()
    tab.keyboard.press("Control+V")
    content = tab.locator("#paste").input_value()
    tab.evaluate("document.querySelector('#paste').remove()")
    return content


def test_tables_are_copied_as_shown_in_three_forms(opened):
    tab = opened()
    tab.locator(RUNS).get_by_label("Search", exact=True).fill("50%")
    name = " ".join(HOSTILE.split())
    lines = list(csv.reader(io.StringIO(copied(tab, RUNS, "CSV"))))
    assert len(lines) == 2 and lines[0][:4] == ["run", "dataset", "init", "first layer"] and lines[1][0] == name
    markdown = copied(tab, RUNS, "Markdown").splitlines()
    rules = dict(zip(markdown[0].split(" | "), markdown[1].split(" | "), strict=True))
    assert rules["hidden"] == rules["test top-1, %"] == "--:" and rules["init"] == "---"
    assert markdown[2].startswith(f"| {name.replace('|', chr(92) + '|')} |")
    latex = copied(tab, RUNS, "LaTeX")
    assert latex.startswith("\\begin{tabular}{llllrrlr")
    assert latex.count("\\\\\n") == 2 and latex.endswith("\\bottomrule\n\\end{tabular}\n")
    assert r'"c" \& 50\% \$x\_1' in latex
    tab.locator(RUNS).get_by_label("Search", exact=True).fill("")
    tab.locator(RUNS).get_by_label("dataset", exact=True).select_option("mine")
    head(tab, "test top-1, %").get_by_role("button").click()
    lines = list(csv.DictReader(io.StringIO(copied(tab, RUNS, "CSV"))))
    numbers = [float(line["test top-1, %"]) for line in lines]
    assert len(numbers) == 48 and numbers == sorted(numbers)


def test_copying_works_where_the_clipboard_api_is_refused(opened):
    tab = opened()
    tab.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('refused')) }")
    assert copied(tab, "#verdict-table", "CSV").startswith("claim,verdict,the numbers point to,")


def tab_to(tab, locator, limit=30):
    """Press Tab until the element has the focus."""
    for _ in range(limit):
        if locator.evaluate("element => element === document.activeElement"):
            return
        tab.keyboard.press("Tab")
    raise AssertionError(f"no key leads to {locator}")


def test_the_keyboard_alone_skips_searches_chooses_and_sorts(opened):
    tab = opened()
    tab.keyboard.press("Tab")
    skip = tab.locator(".skip")
    assert skip.evaluate("element => element === document.activeElement") and skip.bounding_box()["x"] >= 0
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "content"
    link = tab.locator("nav a[href='#runs']")
    for _ in range(30):  # back from the content, through the navigation
        tab.keyboard.press("Shift+Tab")
        if link.evaluate("element => element === document.activeElement"):
            break
    tab.keyboard.press("Enter")
    tab_to(tab, tab.locator(RUNS).get_by_label("Search", exact=True))
    tab.keyboard.type("digits")
    assert set(column(tab, "dataset")) == {"digits"}
    tab_to(tab, tab.locator(RUNS).get_by_label("out", exact=True))
    tab.keyboard.type("64")
    assert set(column(tab, "out")) == {"64"}
    button = head(tab, "test top-1, %").get_by_role("button")
    tab_to(tab, button)
    assert button.evaluate("element => getComputedStyle(element).outlineStyle") == "solid"
    tab.keyboard.press("Enter")
    numbers = [float(cell) for cell in column(tab, "test top-1, %")]
    assert numbers == sorted(numbers) and len(numbers) == 16
    tab.keyboard.press("Space")
    assert head(tab, "test top-1, %").get_attribute("aria-sort") == "descending"


def test_a_phone_scrolls_tables_but_never_the_page_sideways(opened):
    tab = opened(width=360, height=740, is_mobile=True, has_touch=True)
    tab.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert tab.evaluate("document.documentElement.scrollWidth") == 360
    beyond = """() => [...document.querySelectorAll('main *')]
        .filter(node => !node.closest('.scroll *, svg *') && node.getBoundingClientRect().right > 361)
        .map(node => node.outerHTML.slice(0, 80))"""
    assert tab.evaluate(beyond) == []
    assert tab.evaluate(
        "(name) => { const box = document.querySelector(`${name} .scroll`);return box.scrollWidth > box.clientWidth }",
        RUNS,
    )


CONTRASTS = """() => {
    const parsed = (colour) => {
        const numbers = colour.match(/[\\d.]+/g).map(Number);
        return numbers.length === 4 ? numbers : [...numbers, 1];
    };
    const over = ([r, g, b, a], below) => [r, g, b].map((v, k) => v * a + below[k] * (1 - a));
    const light = (rgb) => rgb.map(v => v / 255)
        .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
    const ground = (node) => {
        const layers = [];
        for (let at = node; at; at = at.parentElement) {
            const own = parsed(getComputedStyle(at).backgroundColor);
            if (own[3]) layers.push(own);
        }
        return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255]);
    };
    const seen = [];
    const judge = (node, colour, grounds) => {
        for (const below of grounds) {
            const [a, b] = [light(over(parsed(colour), below)), light(below)].sort((x, y) => y - x);
            seen.push([(a + 0.05) / (b + 0.05), node.textContent.trim().slice(0, 40)]);
        }
    };
    for (const node of document.querySelectorAll('body *')) {
        const own = [...node.childNodes].some(child => child.nodeType === 3 && child.textContent.trim());
        if (!own || node.closest('svg, script')) continue;
        judge(node, getComputedStyle(node).color, [ground(node)]);
    }
    for (const svg of document.querySelectorAll('svg.panel')) {
        const paper = ground(svg);
        const cells = [...svg.querySelectorAll('rect.up, rect.down')].map(cell => {
            const style = getComputedStyle(cell);
            return over([...parsed(style.fill).slice(0, 3), Number(style.fillOpacity)], paper);
        });
        for (const text of svg.querySelectorAll('text')) {
            const plain = !text.classList.contains('muted') && !text.classList.contains('strong');
            judge(text, getComputedStyle(text).fill, plain ? [paper, ...cells] : [paper]);
        }
    }
    return seen;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_from_its_ground(opened, scheme):
    tab = opened(color_scheme=scheme)
    ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(251, 251, 249)", "dark": "rgb(20, 23, 26)"}[scheme]
    tab.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    seen = tab.evaluate(CONTRASTS)
    assert len(seen) > 500
    assert [entry for entry in seen if entry[0] < 4.5] == []


def test_every_drawing_says_what_it_shows(opened):
    tab = opened()
    silent = """() => [...document.querySelectorAll('img, svg')].filter(node => !node.closest('[aria-hidden=true]'))
        .filter(node => !(node.getAttribute('alt') || node.getAttribute('aria-label'))).length"""
    assert tab.locator("figure svg[role=img]").count() > 10 and tab.evaluate(silent) == 0
    label = tab.locator("#C1-effects svg").first.get_attribute("aria-label")
    assert label.startswith("autoencoder (frozen) - random (trainable), accuracy points: all datasets ")
    captions = tab.locator("figcaption").all_text_contents()
    assert captions and all("run" in caption and "seed" in caption for caption in captions)


def test_names_of_runs_stay_text_and_links_lead_to_sections(opened):
    tab = opened()
    assert tab.title() == "Headstart: synthetic runs"
    assert HOSTILE in column(tab, "run")
    assert "A <b>note</b>." in tab.locator("#runs").inner_text()
    targets = tab.locator("nav a").evaluate_all("links => links.map(link => link.hash.slice(1))")
    assert "runs" in targets
    assert all(tab.locator(f"[id='{target}']").count() == 1 for target in targets)
    doubled = (
        "() => { const ids = [...document.querySelectorAll('[id]')].map(node => node.id);"
        "return ids.filter((id, k) => ids.indexOf(id) !== k) }"
    )
    assert tab.evaluate(doubled) == []


def test_without_script_the_page_is_whole_and_offers_no_dead_button(opened):
    tab = opened(java_script_enabled=False)
    assert tab.locator(f"{RUNS} tbody tr").count() == 96
    assert tab.get_by_role("button").count() == 0


def test_the_policy_stops_what_would_leave_the_page(chromium, report, tmp_path):
    evil = tmp_path / "evil.html"
    evil.write_text(report.read_text().replace("</main>", '<img src="http://127.0.0.1:9/x.png" alt=""></main>'))
    blocked = []
    tab = chromium.new_page()
    tab.on("console", lambda message: blocked.append(message.text))
    tab.goto(evil.as_uri())
    tab.close()
    assert len(blocked) == 1 and "Content Security Policy" in blocked[0]

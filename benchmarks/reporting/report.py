"""A self-contained HTML page of what was measured, its pictures as PNG files, and a page of what is predicted."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from convext.benchmarks.cases.layers import model_layers
from convext.benchmarks.cases.sweep import PREFIX
from convext.benchmarks.inspect.prediction import INSTRUCTIONS, L2, WAVEFRONTS, Prediction, predictions
from convext.benchmarks.reporting import table
from convext.benchmarks.reporting.results import Results, Row
from convext.benchmarks.reporting.stats import geomean
from convext.benchmarks.reporting.table import Cell
from convext.problem import Face
from convext.problem.roofline import H100

PREDICTED = "predicted-h100.html"
DENSE = "heat_map"  # a picture that a narrow screen scrolls; the others it shrinks
CHANNELS = {"nc": "first", "cl": "last"}
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222; max-width: 82rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .18rem .7rem .18rem 0; border-bottom: 1px solid #e5e5e5 }
td { white-space: nowrap } td:first-child { white-space: normal; overflow-wrap: anywhere; min-width: 7rem }
th { position: sticky; top: 0; background: white; vertical-align: bottom }
td.slower { color: #c0392b; font-weight: 600 } td.faster { color: #1e6b3a }
td.failed { color: white; background: #c0392b } td small { color: #777; font-weight: normal }
img { width: 48rem; max-width: 100%; display: block } img.dense { width: 60rem; max-width: none }
.note, .facts { max-width: 60rem }
.note { background: #fdf3d8; padding: .6rem 1rem; border-left: 4px solid #e0a800 }
.wide { overflow-x: auto } .facts { color: #555 }
@media (max-width: 30rem) { th, td { padding-right: .35rem; font-size: 12px } }
"""


def main(path: Path, out: Path) -> int:
    """Writes <name>.html, <name>-<picture>.png and predicted-h100.html into `out` for `path`, and says where."""
    from convext.benchmarks.reporting import pictures

    results = Results.read(path)
    out.mkdir(parents=True, exist_ok=True)
    images = {}
    if any(row.ratio() for row in results.rows):
        for name, draw in pictures.pictures(results.rows, results.run["kind"]).items():
            figure = draw(results.rows, str(results.run["device"]))
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", dpi=130)
            pictures.plt.close(figure)
            images[name] = buffer.getvalue()
            (out / f"{path.stem}-{name}.png").write_bytes(buffer.getvalue())
    page = out / f"{path.stem}.html"
    page.write_text(_page(results, images))
    (out / PREDICTED).write_text(_document("An H100: predicted, not measured", _predictions()))
    print(f"report: {page}")
    return 0


def _page(results: Results, images: dict[str, bytes]) -> str:
    run, rows = results.run, results.rows
    cpu = run["kind"] == "cpu"
    parts = [f"<p class=facts>{html.escape(_facts(results))}</p>"]
    if cpu:
        parts.append(
            "<p class=note>Measured on a CPU: no GPU kernel ran. Batches and maps were cut. "
            + html.escape("".join(f"{line}. " for line in table.whose(rows)))
            + "Where convext ran torch's own kernels, what is above or below 1.00x is the machine's noise and the "
            "call's own cost.</p>"
        )
    if results.end is None:
        parts.append("<p class=note>The run was interrupted: these are the results so far.</p>")
    elif results.end.get("left_out"):
        parts.append(f"<p class=note>{len(results.end['left_out'])} cases were not begun: the time was over.</p>")
    parts += _section("Speed by family", ("family", *table.COLUMNS), table.families(rows))
    parts.append(f"<p class=facts>{html.escape(table.MEANS)}</p>")
    parts += [_picture(name, image) for name, image in images.items() if name != DENSE]
    parts += _section("Speed by network", ("network", *table.COLUMNS), _networks(rows))
    parts += _section("Slower than torch in the same layout", ("layer", "work", "channels", "speed"), _losses(rows))
    parts += _section(
        "Not timed: disagreed with float64, or raised", ("what",), ([Cell(t, "failed")] for t in table.failures(rows))
    )
    parts += _section("Published times, as reported elsewhere", ("layer", "published", "here"), _published(rows))
    parts += [_picture(name, image) for name, image in images.items() if name == DENSE]
    parts += _section("Every layer", ("layer", *table.COLUMNS), table.lines(rows))
    parts.append(f"<p class=facts>{html.escape(table.LEGEND)}</p>")
    parts.append(f'<p class=facts><a href="{PREDICTED}">What an H100 should take</a>: predicted, not measured.</p>')
    return _document(f"convext against torch on {run['device']}", parts)


def _picture(name: str, image: bytes) -> str:
    source = f"data:image/png;base64,{base64.b64encode(image).decode()}"
    kind = "class=dense " if name == DENSE else ""
    return f'<div class=wide><img {kind}alt="{name.replace("_", " ")}" src="{source}"></div>'


def _document(title: str, parts: Sequence[str]) -> str:
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>"
    view = "<meta name=viewport content='width=device-width, initial-scale=1'>"
    return f"{head}{view}<style>{STYLE}</style><h1>{html.escape(title)}</h1>{''.join(parts)}\n"


def _facts(results: Results) -> str:
    run = results.run
    gpu = ", ".join(f"{k} {v}" for k, v in run.get("gpu", {}).items())
    versions = ", ".join(f"{k} {run[k]}" for k in ("torch", "triton", "cuda", "cudnn", "python", "threads") if k in run)
    peaks = run["peaks"]
    rates = ", ".join(f"{name} {rate / 1e12:,.3g} TFLOP/s" for name, rate in peaks["rates"].items())
    sentences = [
        f"{len(results.rows)} cases, commit {run.get('commit', 'unknown')}, {run['date']}",
        versions,
        gpu,
        f"float32 products: {run['float32']}",
        f"Command: {run['command']}",
        f"Ideal time from {peaks['bandwidth'] / 1e9:,.0f} GB/s and {rates} ({peaks['source']})",
    ]
    return "".join(f"{sentence}. " for sentence in sentences if sentence)


def _section(title: str, headers: Sequence[str], body: Iterable[Sequence[Cell]]) -> list[str]:
    """A titled table; nothing where it has no lines."""
    lines = list(body)
    if not lines:
        return []
    head = "".join(f"<th>{html.escape(h)}" for h in headers)
    text = "".join("<tr>" + "".join(map(_cell, line)) for line in lines)
    return [f"<h2>{html.escape(title)}</h2>", f"<div class=wide><table><tr>{head}{text}</table></div>"]


def _cell(cell: Cell) -> str:
    note = f"<br><small>{html.escape(cell.note)}</small>" if cell.note else ""
    return f'<td class="{cell.kind}">{html.escape(cell.text)}{note}'


def _networks(rows: Sequence[Row]) -> Iterable[list[Cell]]:
    """For each network, the mean over its traced layers, weighted by how often it has them."""
    models = [row for row in rows if not row.layer.startswith(("A", PREFIX))]
    for network in sorted({row.name.split()[0] for row in models}):
        cells = []
        for name in table.COLUMNS:
            timed = [r for r in models if r.name.split()[0] == network and table.column(r) == name and r.ratio()]
            mean = geomean((r.ratio()[0] for r in timed), (r.count for r in timed))  # type: ignore[index]
            cells.append(table.mean_cell(mean, len(timed)) if timed else Cell())
        yield [Cell(network), *cells]


def _losses(rows: Sequence[Row]) -> list[list[Cell]]:
    """Where "auto" is slower than torch in the same layout, the worst first."""
    found = [(lost, row, where) for row in rows for where in row.chosen if (lost := row.lost(where)) is not None]
    return [
        [Cell(text) for text in (f"{row.layer} {row.name}", table.column(row), CHANNELS[where])]
        + [Cell(f"{lost:.2f}x", "slower")]
        for lost, row, where in sorted(found, key=lambda item: item[0])
    ]


def _published(rows: Sequence[Row]) -> Iterable[list[Cell]]:
    for row in rows:
        if row.published:
            here = table.cell(row)
            note = f" (cut: {row.cut})" if row.cut else ""
            yield [
                Cell(f"{row.layer} {row.family}"),
                Cell(f"{row.published} [{row.name}]"),
                Cell(here.text, here.kind, here.note + note),
            ]


def _predictions() -> list[str]:
    """What the layers should take on an H100, whatever device the results are from."""
    headers = (
        "layer", "family", "kernel", "ideal", "predicted", "of ideal", "limit", "instr./output", "registers",
        "input gradient", "weight gradient",
    )  # fmt: skip
    body = []
    for layer, faces in predictions(model_layers()):
        backward: Face = "fprop" if layer.transposed else "dgrad"
        name = Cell(f"{layer.id} {layer.name}")
        gradients = (_predicted(faces[face]) for face in (backward, "wgrad"))
        body.append([name, Cell(layer.family), *_forward(faces[layer.forward]), *gradients])
    note = (
        "<p class=note>Prediction, not measured: no kernel ran for this table. The Triton kernels that would run each "
        "layer, at full size, in bfloat16 and its network's layout, were compiled for sm_90. They take as long as "
        f"the bytes at {H100.bandwidth / 1e12:g} TB/s, the products at their peak (both: ideal), the "
        f"instructions in the machine code at {INSTRUCTIONS / 1e12:g}e12 a second, the sectors that blocks move from "
        f"and to L2 at {L2 / 1e12:g} TB/s or the wavefronts of shared memory at {WAVEFRONTS / 1e9:g}e9 a second (both "
        "counted by an emulator), whichever is longest, and then the "
        'copies that they need. In brackets: layers that "auto" leaves to torch until measured. Gradients: predicted '
        "time, ideal time's share of it, and what takes longest. Red: more than twice the ideal time.</p>"
    )
    return [note, *_section("Layers of real networks", headers, body)]


def _forward(p: Prediction) -> list[Cell]:
    """The kernel of a layer's forward, and what is predicted of it."""
    short = p.kernel.removeprefix("triton.")
    kernel = Cell(short if p.auto == p.kernel else f"({short})")
    ideal = Cell(table.microseconds(1e6 * p.ideal))
    if not p.kernel:
        return [Cell(p.auto), ideal, Cell(), Cell(), Cell(p.bound), Cell(), Cell()]
    share = Cell(f"{p.ideal / p.seconds:.0%}", "slower" if p.ideal < 0.5 * p.seconds else "same")
    predicted = Cell(table.microseconds(1e6 * p.seconds))
    return [kernel, ideal, predicted, share, Cell(p.limit), Cell(f"{p.per_output:,.1f}"), Cell(str(p.registers))]


def _predicted(p: Prediction) -> Cell:
    """A gradient in one cell."""
    if not p.kernel:
        return Cell()
    kind = "slower" if p.ideal < 0.5 * p.seconds else "same"
    return Cell(f"{table.microseconds(1e6 * p.seconds)} {p.ideal / p.seconds:.0%} {p.limit}", kind)

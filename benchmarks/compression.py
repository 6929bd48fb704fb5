"""hotspare's search beside other tools on the same models, rows and budget: ``python benchmarks/compression.py``.

Run it in the project's folder after ``make repro`` (it needs ``artifacts/trained``) and with Debian's package
``dataset-fashion-mnist``. Everything is written below ``--out``; a killed run goes on where it was, and models that
this run leaves out come from earlier ones into the same table, marked where the code has changed since. ``--fresh``
keeps nothing. ``--seeds 20`` deals validation and locked rows anew twenty times and counts how often the chosen file
is over the budget on locked rows.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from pathlib import Path

from answering import Part, Pool
from cases import MODELS, Case, load_case
from host import machine
from measuring import Bench, Row, open_bench
from replaying import Explored, replay
from rivals import all_rivals
from searching import File, Found, make_uniform, run_search
from seeds import Arena, Opened, run_seeds, summary
from tables import Measurements, combined, keep, markdown, recall, show

from pipeline.core.canonical import canonical_json, readable_json, sha256_file, sha256_hex
from pipeline.core.errors import ModelError
from pipeline.core.files import write_atomic
from pipeline.core.names import Format
from pipeline.core.recipe import Minimize, Search
from pipeline.core.schema import plain

OUT = Path("artifacts/benchmarks/compression")
OLIVE_PACKAGES = ("olive-ai", "onnxruntime", "requests")  # Olive imports requests without declaring it
TOOLS = ("tensorflow", "ai-edge-quantizer", "ai-edge-litert", "onnxruntime")
_CODE = ("benchmarks", "pipeline/compress", "pipeline/score")
_DIGEST_CHARS = 12


def main() -> None:
    """Measure every model, then print and write the table."""
    args = arguments()
    search = Search(args.minimize, seconds_max=args.seconds)
    if args.fresh:
        for folder in ("seeds", "trained", "variants", "measured", "explored"):
            shutil.rmtree(args.out / folder, ignore_errors=True)
    code = code_digest()
    for name in args.models:
        Measuring(load_case(name, args.out, args.epochs, say), search, args, code).run()
        write(args, code)
    show(combined(args.out, args.minimize, MODELS), code, args.json)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS, metavar="MODEL", help=", ".join(MODELS))
    parser.add_argument("--minimize", type=Minimize, choices=list(Minimize), default=Minimize.BYTES)
    parser.add_argument("--seconds", type=float, default=120.0, help="of one search, at most (120)")
    parser.add_argument("--seeds", type=int, default=0, metavar="N", help="deal the rows anew N times")
    parser.add_argument("--search-seeds", type=int, default=2, metavar="N", help="run N searches for these deals (2)")
    parser.add_argument("--fresh", action="store_true", help="keep nothing of earlier runs: models, variants, figures")
    parser.add_argument(
        "--olive-python", type=Path, help="interpreter that has Olive; otherwise one is made below --out"
    )
    parser.add_argument("--no-olive", action="store_true", help="leave Olive out (its environment takes 5 GB)")
    parser.add_argument("--no-rivals", action="store_true", help="leave every other tool out")
    parser.add_argument("--epochs", type=int, default=6, help="of training the Fashion-MNIST network (6)")
    parser.add_argument("--out", type=Path, default=OUT, help=f"folder for all that is made ({OUT})")
    parser.add_argument("--markdown", type=Path, help="file for the table as Markdown (by default in --out)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    return parser.parse_args()


def write(args: argparse.Namespace, code: str) -> None:
    """Write what is measured so far of all models, as Markdown and as JSON."""
    found = combined(args.out, args.minimize, MODELS)
    write_atomic(args.markdown or args.out / f"{args.minimize}.md", markdown(found, code).encode())
    write_atomic(args.out / f"{args.minimize}.json", readable_json([plain(one) for one in found]))


class Measuring:
    """One model's measurements, each step taken from an earlier run of the same code where it is there."""

    def __init__(self, case: Case, search: Search, args: argparse.Namespace, code: str) -> None:
        """Digest what the figures follow from."""
        self.case, self.search, self.args = case, search, args
        self.made_of = made_of(case, search, code)
        self.uniform = cache(self._uniform)
        self.bench = cache(self._bench)
        self.explored = cache(self._explored)
        self.arena = cache(self._arena)

    def run(self) -> None:
        """Measure the rows of the table, then the deals."""
        known = recall(self.args.out, self.search.minimize, self.case.name)
        if known is None or known.made_of != self.made_of or self._lacks(known):
            known = self._measure()
            keep(self.args.out, known)
        if self.args.seeds:
            folder, name = self.case.root / "seeds", f"{self.case.name}-{self.search.minimize}"
            digest = f"{self.made_of} {self.args.search_seeds}"
            results = list(run_seeds(self._opened, folder, name, self.args.seeds, digest, say))
            found = summary(results, self.search.minimize, known.loss_max_abs)
            keep(self.args.out, replace(known, seeds=found))

    def _lacks(self, known: Measurements) -> bool:
        """Tell whether tools are missing that this run is to measure."""
        tools = {row.tool.partition(" ")[0] for row in known.rows}
        return not self.args.no_rivals and ("TF" not in tools or ("Olive" not in tools and not self.args.no_olive))

    def _measure(self) -> Measurements:
        recipe = self.case.recipe
        notes: list[str] = []
        rows = list(self._rows(notes))
        return Measurements(
            model=self.case.name,
            made_of=self.made_of,
            machine=machine(),
            tools=tools(),
            search=self.search,
            loss_max_abs=recipe.budgets.loss_max_abs,
            confidence=recipe.budgets.confidence,
            rows=tuple(rows),
            notes=(*notes, *told(self.case.name, self.uniform()[1])),
        )

    def _rows(self, notes: list[str]) -> Iterator[Row]:
        """Yield the float exports, every rival, hotspare's best uniform files, the searched one."""
        bench, name = self.bench(), self.case.name
        for kind in Format:
            yield bench.row("float", f"dense.f32 {kind}", kind, self.case.export(kind).read_bytes())
        yield from self._rivals(notes)
        found = self._search(0)
        yield from self._uniform_rows(found, notes)
        tool = f"hotspare search, {found.seconds:.0f} s"
        if not found.complete:
            notes.append(f"{name}: the search ran out of its {self.search.seconds_max:g} s before it was complete.")
        if found.chosen is None:
            yield Row(name, tool, problem=" ".join(found.why))
        else:
            yield bench.row(tool, found.chosen.name, found.chosen.record.format, found.chosen.model)

    def _rivals(self, notes: list[str]) -> Iterator[Row]:
        if self.args.no_rivals:
            return
        olive_python, problems = olive_environment(self.args)
        notes.extend(problems)
        for rival in all_rivals(self.case, olive_python):
            say(f"{self.case.name}: {rival.tool}")
            yield (
                Row(self.case.name, rival.tool, problem=rival.problem)
                if rival.model is None
                else self.bench().row(rival.tool, str(rival.format), rival.format, rival.model)
            )

    def _uniform_rows(self, found: Found, notes: list[str]) -> Iterator[Row]:
        """Yield the best uniform files, by the search's rule on the recipe's own rows."""
        arena = self.arena()
        validation, locked = _own(arena.pool)
        choice = self.explored(0).choose(arena.pool, validation)
        if found.complete and (choice and choice.sha256) != (found.chosen and found.chosen.record.sha256):
            notes.append(f"{self.case.name}: read again, the search would choose {choice and choice.words}.")
        level = choice.confidence if choice else self.case.recipe.budgets.confidence
        for only_dense, what in ((True, "float weights"), (False, "any variant")):
            best = arena.uniform(validation, locked, level, only_dense)
            tool = f"hotspare best uniform, {what}"
            yield (
                Row(self.case.name, tool, problem="no uniform scheme meets the budget")
                if best is None
                else self.bench().row(tool, best.file.name, best.file.record.format, best.file.model)
            )

    def _arena(self) -> Arena:
        return Arena(self.case, self.bench(), self.search.minimize, self.uniform()[0])

    def _opened(self) -> Opened:
        """Return all that a deal needs."""
        return self.arena(), [self.explored(number) for number in range(self.args.search_seeds)]

    def _search(self, number: int) -> Found:
        """Search from nothing, and keep what it measured."""
        say(f"{self.case.name}: searching for at most {self.search.seconds_max:g} s")
        folder = self._folder(number)
        (folder / "made-of").unlink(missing_ok=True)
        recipe = replace(self.case.recipe, seed=self.case.recipe.seed + number)
        found = run_search(recipe, self.search, searching_root(self.case), folder)
        write_atomic(folder / "made-of", self.made_of.encode())
        say(f"{self.case.name}: {' '.join(found.why[:1])}")
        return found

    def _explored(self, number: int) -> Explored:
        stamp = self._folder(number) / "made-of"
        if not stamp.exists() or stamp.read_text() != self.made_of:
            self._search(number)
        recipe = replace(self.case.recipe, seed=self.case.recipe.seed + number)
        found = replay(recipe, self.search, self.case.root, self._folder(number))
        if found is None:  # a search names its figures by the code on the disk, which somebody is working on
            say(f"{self.case.name}: the code has changed since the search; searching again")
            self._search(number)
            found = replay(recipe, self.search, self.case.root, self._folder(number))
        if found is None:
            raise ModelError(f"The search of {self.case.name} cannot be read again; is its code being changed?")
        return found

    def _folder(self, number: int) -> Path:
        return self.case.root / "explored" / f"{self.case.name}-{self.search.minimize}-{number}"

    def _uniform(self) -> tuple[tuple[File, ...], dict[str, str]]:
        return make_uniform(self.case.recipe, self.case.root)

    def _bench(self) -> Bench:
        return open_bench(self.case)


def _own(pool: Pool) -> tuple[Part, Part]:
    validation, locked = pool.own_deal
    seed = pool.recipe.seed
    return pool.judged("validation", validation, seed), pool.judged("test", locked, seed)


def code_digest() -> str:
    """Return a digest of the code that figures follow from."""
    code = {str(path): sha256_file(path) for folder in _CODE for path in sorted(Path(folder).rglob("*.py"))}
    return sha256_hex(canonical_json(code))[:_DIGEST_CHARS]


def made_of(case: Case, search: Search, code: str) -> str:
    """Return the digest of all that figures follow from, the code's in front: exports, rows and settings."""
    exports = [sha256_file(case.export(kind, variant)) for variant in case.recipe.variants for kind in Format]
    data = case.recipe.data
    rows = [sha256_file(Path(path)) for path in (data.calibration, data.validation, data.test)]
    return f"{code} {sha256_hex(canonical_json([exports, rows, plain(case.recipe), plain(search)]))}"


def told(model: str, refused: Mapping[str, str]) -> Iterator[str]:
    """Yield, for each reason, which uniform candidates it kept from being made."""
    for reason in dict.fromkeys(refused.values()):
        names = ", ".join(name for name, why in refused.items() if why == reason)
        yield f"{model}: not made: {names}: {reason}"


def say(text: str) -> None:
    """Tell how far it is, on standard error."""
    print(text, file=sys.stderr, flush=True)


def olive_environment(args: argparse.Namespace) -> tuple[Path | None, list[str]]:
    """Return an interpreter that has Olive, made on demand (it wants other versions of our packages), or why not."""
    if args.no_olive:
        return None, ["Olive was left out: --no-olive."]
    if args.olive_python:
        return args.olive_python, []
    folder = args.out / "olive-env"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        say(f"making an environment for Olive in {folder}: a download of 3 GB")
        uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
        make = [uv, "venv", "--clear", str(folder)] if uv else [sys.executable, "-m", "venv", "--clear", str(folder)]
        pip = [uv, "pip", "install", "--python", str(python)] if uv else [str(python), "-m", "pip", "install"]
        for command in (make, [*pip, *OLIVE_PACKAGES]):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                return None, [
                    f"Olive was skipped, it could not be installed: {(done.stderr.strip() or '?').splitlines()[-1]}"
                ]
        (folder / "ready").touch()
    return python, []


def searching_root(case: Case) -> Path:
    """Return an emptied folder for one search, with the case's exports in it: nothing of an earlier search helps."""
    root = case.root / "search"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    (root / "variants").symlink_to((case.root / "variants").resolve())
    return root


def tools() -> dict[str, str]:
    """Return the versions of the tools compared."""
    return {name: version(name) for name in TOOLS}


if __name__ == "__main__":
    main()

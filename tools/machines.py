"""A grid of experiments on several machines: which run is whose, what the others have already, and how results travel.

A git remote carries the experiments, as commits under refs/exps, and DVC's default remote their models and data. Two
runs are the same if they start from the same commit, with the same parameters, code, data and pretrained weights.
"""

import contextlib
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

from dvc.dependency import ParamsDependency
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.utils.cli_parse import to_path_overrides
from dvc.utils.hydra import apply_overrides, get_hydra_sweeps, to_hydra_overrides
from dvc.utils.serialize import PARSERS
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from detector.errors import UserError
from detector.files import file_sha256
from stages.fingerprint import EXTERNAL, FINGERPRINT, PRETRAINED, find_data, fingerprint, repository
from stages.params import dataset_entry, external_entries, licence_beside, load_params, model_entry, weights_path
from tools.shell import DVC, command, experiments, head

Run = dict[str, list[str]]  # the overrides of a run by the file that they change, as {"params.yaml": ["seed=1"]}


def grid(overrides: list[str]) -> list[Run]:
    """Return one run for each combination of values, in an order that only the overrides decide.

    Raises UserError where they do not fit into the files of parameters.
    """
    by_file = to_path_overrides(overrides)
    said = f"-S {' -S '.join(overrides)}"
    if "dvc.yaml" in by_file:
        raise UserError(f"{said}: dvc.yaml has no parameters; edit it, and queued runs see the change")
    try:
        parsed = {name: to_hydra_overrides(words) for name, words in by_file.items()}
        for ones in parsed.values():
            name, count = Counter(one.key_or_group for one in ones).most_common(1)[0]
            if count > 1:
                raise UserError(f"{said}: {name} is there twice: give its values as -S {name}=1,2")
        is_grid = any(one.is_sweep_override() for ones in parsed.values() for one in ones)
        runs = get_hydra_sweeps(by_file) if is_grid else [by_file]
        apply(runs[0])
    except (DvcException, HydraException, OmegaConfBaseException) as error:
        raise UserError(f"{said}: {error.__cause__ or error}") from None
    return runs


def parse_share(share: str) -> slice:
    """Return which runs of a grid one machine has: share 2/8 is the second run, the tenth, and so on. Raises
    UserError."""
    number, _, machines = share.partition("/")
    if not (number.isdecimal() and machines.isdecimal() and 1 <= int(number) <= int(machines)):
        raise UserError(f"--share {share}: it must be as in 2/8, the second of eight shares, from 1/8 to 8/8")
    return slice(int(number) - 1, None, int(machines))


def apply(run: Run) -> dict[str, object]:
    """Return the contents of the files of parameters as they are in that run."""
    contents: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, overrides in run.items():
            if not Path(name).is_file():
                raise UserError(f"there is no {name} here: run this from the root of the repository")
            copy = Path(folder, Path(name).name)
            shutil.copy(name, copy)
            apply_overrides(copy, overrides)
            contents[name] = parse(name, copy.read_text())
    return contents


def parse(name: str, text: str) -> object:
    return PARSERS[Path(name).suffix.lower()](text, name)


def find_same(runs: list[Run], results: Collection[str], queued: Collection[str] = ()) -> list[str | None]:
    """Return for each run the first commit that is the same run, None where there is none.

    They are commits that start from the one that is checked out: of experiments, `results`, and of what waits in the
    queue. Their code and their pipeline must be those in the work tree. Results must be of the data and the pretrained
    weights that are here, which what waits will read.
    """
    files = {name for run in runs for name in run}
    inputs = input_files()
    contents, inventories = {}, {}
    for commit in (*results, *queued):
        if not command("git", "diff", "--name-only", commit, "--", *inputs):
            with contextlib.suppress(UserError):  # it does not have the file
                contents[commit] = {name: parse(name, command("git", "show", f"{commit}:./{name}")) for name in files}
                if commit in results:
                    inventories[commit] = {
                        file: json.loads(command("git", "show", f"{commit}:./{file}"))
                        for file in (FINGERPRINT, EXTERNAL, PRETRAINED)
                    }
    known: dict[Path, dict[str, Any]] = {}
    same: list[str | None] = []
    for run in runs:
        wanted = apply(run) if contents else {}
        equal = [commit for commit, found in contents.items() if all(found[name] == wanted[name] for name in run)]
        if not inventories.keys().isdisjoint(equal):
            now = inventory(wanted.get("params.yaml") or load_params(), known)
            equal = [commit for commit in equal if holds(inventories.get(commit, now), now)]
        same.append(next(iter(equal), None))
    return same


def inventory(params: Any, known: dict[Path, dict[str, Any]]) -> dict[Path, dict[str, Any]]:
    """Return what the first stage writes of the data and the pretrained weights of a run, by the file that it writes,
    without those that are not here. `known` are files and data that were read before."""

    def data_digests(name: str, entry: dict[str, Any]) -> dict[str, Any]:
        found = find_data(name, entry)
        if found and found not in known:
            known[found] = fingerprint(name, found)
        return known[found] if found else {}

    def weights_digests(pretrained: bool | str) -> dict[str, Any]:
        if not isinstance(pretrained, str) or not (repository() / pretrained).exists():
            return {}
        path = weights_path(pretrained)
        assert path is not None
        if path not in known:
            files = {"sha256": path, "licence_sha256": licence_beside(path)}
            known[path] = {key: file_sha256(file) for key, file in files.items() if file}
        return known[path]

    name, weights = params["dataset"], weights_digests(model_entry(params)["pretrained"])
    data = data_digests(name, dataset_entry(params))
    external = {other: data_digests(other, entry) for other, entry in external_entries(params).items()}
    return {FINGERPRINT: {"dataset": name, **data} if data else {}, EXTERNAL: external, PRETRAINED: weights}


def holds(found: dict[Any, Any], wanted: dict[Any, Any]) -> bool:
    """Return whether all that is wanted is in what was found, at any depth."""
    return all(
        holds(found.get(key, {}), value) if isinstance(value, dict) else found.get(key) == value
        for key, value in wanted.items()
    )


def input_files() -> list[str]:
    """Return what the stages need of what git tracks, without parameters: code, dvc.yaml, data in the repository."""
    with Repo() as repo:
        written = [Path(out.fs_path) for out in repo.index.outs]
        needed = [
            Path(dependency.fs_path)
            for dependency in repo.index.deps
            if dependency.is_in_repo and not isinstance(dependency, ParamsDependency)
        ]
        pipeline = {Path(stage.path) for stage in repo.index.stages}
    made = {path for path in needed for out in written if path.is_relative_to(out)}
    return sorted(str(path) for path in pipeline | (set(needed) - made))


def here() -> dict[str, str]:
    """Return this repository's experiments on the commit that is checked out: the name of each by its own commit."""
    now = head()
    return {commit: name for name, start, commit in experiments() if start == now}


def on_remote(remote: str) -> dict[str, str]:
    """Return a git remote's experiments on the commit that is checked out: the name of each by its own commit.

    Afterwards these commits can be read here, too. No reference names them: `dvc exp list` does not show them.
    """
    start = reference("")
    lines = command("git", "ls-remote", remote, f"{start}*").splitlines()
    found = {commit: name.removeprefix(start) for commit, name in map(str.split, lines)}
    if found:
        names = [start + name for name in found.values()]
        command("git", "fetch", "--quiet", "--no-write-fetch-head", remote, *names)
    return found


def push(name: str, remote: str) -> None:
    """Push an experiment: its files to DVC's default remote, its commit to a git remote. Raises UserError.

    The files go first: other machines do not run again what they see on the git remote, so it must be whole there.
    """
    # To this repository, which has the commit: that pushes the files alone.
    command(DVC, "exp", "push", "--quiet", ".", name)
    try:
        command("git", "push", "--quiet", remote, f"{reference(name)}:{reference(name)}")
    except UserError:
        if name in on_remote(remote).values():
            raise UserError(
                f"{remote} has another experiment called {name}: `dvc exp rename {name} ANOTHER-NAME`"
            ) from None
        raise


def reference(name: str) -> str:
    """Return where git keeps an experiment on the commit that is checked out."""
    start = head()
    return f"refs/exps/{start[:2]}/{start[2:]}/{name}"


def check_storage() -> None:
    """Raise UserError where DVC has no default remote."""
    with Repo() as repo:
        if not repo.config["core"].get("remote"):
            raise UserError(
                "DVC has no default remote to push models to: `dvc remote modify gcs url gs://BUCKET/PATH`, "
                "`dvc remote default gcs`, and commit .dvc/config"
            )

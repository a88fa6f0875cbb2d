"""Checkpoints on disk: numbered folders that appear whole, and are refused if a bit of them has changed."""

import hashlib
import json
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from strfnet.system.files import sync_folder, write_through

VERSION = 1
DESCRIPTION = "description.json"


def put(shelf: Path, number: int, files: Mapping[str, bytes], facts: Mapping[str, Any]) -> Path:
    """Write a checkpoint into the folder of its number, where it appears at once and whole.

    Its files are written into a folder of another name, brought to the disk, and only then given theirs. A kill
    at any moment leaves what was there before, and at most a folder whose name starts with a dot, which
    `sweep` removes. A checkpoint of that number is replaced.

    Args:
        shelf: the folder of all checkpoints, made if it is not there.
        number: such as the step; the highest is the newest.
        files: contents by name.
        facts: what JSON can hold; kept beside the files, with a digest of each.

    Returns: the checkpoint's folder.
    """
    shelf.mkdir(parents=True, exist_ok=True)
    unfinished, finished = shelf / f".{number:08d}.part", shelf / f"{number:08d}"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    description = {"version": VERSION, "sha256": digests, **facts}
    for name, content in files.items():
        write_through(unfinished / name, content)
    whole = {"description": description, "sha256": _digest(description)}
    write_through(unfinished / DESCRIPTION, _written(whole))
    sync_folder(unfinished)
    _remove(finished)
    unfinished.rename(finished)
    sync_folder(shelf)
    return finished


def describe(checkpoint: Path) -> dict[str, Any]:
    """The facts of a checkpoint, its files left unread. Raises: ValueError, as `take` does."""
    try:
        content = (checkpoint / DESCRIPTION).read_bytes()
        whole = json.loads(content)
        facts, digest = whole["description"], whole["sha256"]
        right = digest == _digest(facts) and content == _written(whole)  # 1E-5 is 1e-5, but not what was written
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"checkpoint {checkpoint} is damaged: {DESCRIPTION} cannot be read ({error})") from error
    if not right:
        raise ValueError(f"checkpoint {checkpoint} is damaged: {DESCRIPTION} is not what was written")
    if facts["version"] != VERSION:
        raise ValueError(f"checkpoint {checkpoint} is of version {facts['version']}, wanted {VERSION}")
    return facts


def take(checkpoint: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The facts and the files of a checkpoint, every bit of them as it was written.

    Raises: ValueError naming the checkpoint and the file that is damaged, missing or of another version.
    """
    facts, files = describe(checkpoint), {}
    for name, digest in facts["sha256"].items():
        try:
            files[name] = (checkpoint / name).read_bytes()
        except OSError as error:
            raise ValueError(f"checkpoint {checkpoint} is damaged: {name} cannot be read ({error})") from error
        if hashlib.sha256(files[name]).hexdigest() != digest:
            raise ValueError(f"checkpoint {checkpoint} is damaged: {name} is not what was written")
    return facts, files


def checkpoints(shelf: Path) -> list[Path]:
    """The checkpoints of a shelf, the newest last; none if there is no such folder."""
    found = shelf.iterdir() if shelf.is_dir() else ()
    return sorted((path for path in found if path.name.isdecimal()), key=lambda path: int(path.name))


def newest(shelf: Path) -> tuple[Path, dict[str, Any], dict[str, bytes]] | None:
    """The newest checkpoint with what `take` finds in it; None if there is none.

    Raises: ValueError if it is damaged, naming the newest one before it that is whole.
    """
    found = checkpoints(shelf)
    if not found:
        return None
    try:
        return found[-1], *take(found[-1])
    except ValueError as error:
        good = next((path for path in reversed(found[:-1]) if _is_whole(path)), None)
        advice = f"{good} is whole: remove {found[-1].name} to go on from there" if good else "no other is whole"
        raise ValueError(f"{error}; {advice}") from error


def keep(shelf: Path, kept: Collection[int]) -> None:
    """Remove all checkpoints but those of these numbers, each at once."""
    for checkpoint in checkpoints(shelf):
        if int(checkpoint.name) not in kept:
            _remove(checkpoint)


def sweep(folder: Path) -> None:
    """Remove the files and folders that saves and removals, when they were cut short, have left in a folder."""
    for unfinished in folder.glob(".*.part") if folder.is_dir() else ():
        if unfinished.is_dir():
            shutil.rmtree(unfinished, ignore_errors=True)
        else:
            unfinished.unlink(missing_ok=True)


def _remove(checkpoint: Path) -> None:
    if checkpoint.exists():
        gone = checkpoint.with_name(f".{checkpoint.name}.gone.part")
        shutil.rmtree(gone, ignore_errors=True)
        checkpoint.rename(gone)
        shutil.rmtree(gone)


def _is_whole(checkpoint: Path) -> bool:
    try:
        take(checkpoint)
    except ValueError:
        return False
    return True


def _written(whole: Mapping[str, Any]) -> bytes:
    return json.dumps(whole, indent=1).encode()


def _digest(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

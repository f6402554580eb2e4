"""What may be typed in a chat beside questions."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftlab.errors import FtlabError, nearest
from ftlab.rundir.checkpoints import checkpoints, is_whole, step_of
from ftlab.schema import Settings
from ftlab.use.chat.conversation import read_conversation, save_conversation
from ftlab.use.chat.session import Session
from ftlab.use.models.settings import changed
from ftlab.use.models.speaker import Speaker

_FINAL = "final"


class CommandError(FtlabError, ValueError):
    """A command that there is not, or that cannot be done."""


@dataclass(frozen=True)
class Command:
    """:param names: the command's own first. :param takes: what follows it. :param meaning: in a few words."""

    names: tuple[str, ...]
    takes: str
    meaning: str
    run: Callable[[Session, str], None]

    @property
    def usage(self) -> str:
        return " ".join(filter(None, [", ".join(f"/{name}" for name in self.names), self.takes]))


def execute(session: Session, line: str) -> None:
    """Do what a line that begins with a slash says.

    :raises FtlabError: there is no such command, or it cannot be done.
    """
    word, _, rest = line.removeprefix("/").partition(" ")
    command = next((one for one in COMMANDS if word in one.names), None)
    if command is None:
        known = [name for one in COMMANDS for name in one.names]
        near = [f"/{name}" for name in nearest(word, known)]
        hint = f"Did you mean {' or '.join(near)}?" if near else "/help lists them."
        raise CommandError(f"/{word}: no such command. {hint} A question that begins with / needs a space before it.")
    command.run(session, rest.strip())


def completions(session: Session, line: str, word: str) -> list[str]:
    """What Tab offers: commands, settings after ``/set``, files after ``/save`` and ``/load``."""
    begun = line.lstrip()
    if " " not in begun:
        return sorted(f"/{name}" for one in COMMANDS for name in one.names if f"/{name}".startswith(word or "/"))
    if begun.startswith("/set "):
        return [name for name in Settings.model_fields if name.startswith(word)]
    if begun.startswith(("/save ", "/load ")):
        folder, _, name = word.rpartition("/")
        above = Path(f"{folder}/" if "/" in word else ".").expanduser()
        there = sorted(above.iterdir()) if above.is_dir() else []
        begin = f"{folder}/" if "/" in word else ""
        return [f"{begin}{path.name}{'/' * path.is_dir()}" for path in there if path.name.startswith(name)]
    return []


# --- the commands ----------------------------------------------------------------------------------------------------


def _help(session: Session, rest: str) -> None:
    session.screen.table([(one.usage, one.meaning) for one in COMMANDS])
    session.screen.show('\n""" begins and ends a text of several lines. Ctrl-C stops an answer, Ctrl-D leaves.')


def _new(session: Session, rest: str) -> None:
    session.begin_anew()
    session.screen.note("A new conversation.")


def _system(session: Session, rest: str) -> None:
    conversation = session.conversation
    if not rest:
        session.screen.show(conversation.system or "There is no system message. /system TEXT sets one.")
        return
    text = None if rest in ("off", "none", '""', "''") else rest
    conversation.system = text
    session.screen.note("No system message." if text is None else "The system message is set.")


def _set(session: Session, rest: str) -> None:
    if not rest:
        _show_settings(session)
        return
    key, _, value = rest.replace("=", " ", 1).partition(" ")
    if not value.strip():
        raise CommandError(f"/set {key}: no value. Type /set {key} VALUE; /set alone shows all of them.")
    session.settings = changed(session.settings, key, value.strip())
    name = key.removeprefix("eval.")
    session.screen.note(f"{name} = {_shown(getattr(session.settings, name))}")


def _show_settings(session: Session) -> None:
    values = session.settings.model_dump()
    if session.screen.is_json:
        session.screen.show_json(values)
    else:
        session.screen.table([(name, _shown(value)) for name, value in values.items()])


def _status(session: Session, rest: str) -> None:
    values = status(session)
    if session.screen.is_json:
        session.screen.show_json(values)
        return
    rows = []
    for one in values["models"]:
        weights = f"{one['weights']}, trained from {one['base']}" if one["weights"] else f"{one['base']}, as it was"
        rows.append((one["name"], weights))
        rows.append(("", f"{one['precision']} on {one['device']}, quant={one['quant']}, {one['context']}"))
    rows += [(name, _shown(value)) for name, value in values["settings"].items()]
    rows.append(("system", values["system"] or "none"))
    rows.append(("turns", str(values["turns"])))
    session.screen.table(rows)


def status(session: Session) -> dict[str, Any]:
    """Who answers, with what, and how full their contexts are."""
    from ftlab.model.load import precision_name

    models = []
    for speaker in session.answering:
        config = speaker.policy.config
        try:
            used = len(speaker.prompt(session.conversation.messages(speaker.name), session.conversation.tools))
        except FtlabError:  # nothing was asked yet, and its template needs something
            used = 0
        models.append(
            {
                "name": speaker.name,
                "weights": None if speaker.is_base else f"{speaker.run}, {_label(speaker)}",
                "base": config.model.name if speaker.is_base else speaker.policy.base.config.model.name,
                "precision": precision_name(config),
                "device": str(speaker.model.model.device),
                "quant": config.quant.name,
                "context": f"{used:,} of {speaker.context:,} tokens used",
            }
        )
    conversation = session.conversation
    return {
        "models": models,
        "settings": session.settings.model_dump(),
        "system": conversation.system,
        "turns": len(conversation.turns),
    }


def _history(session: Session, rest: str) -> None:
    conversation, screen = session.conversation, session.screen
    if screen.is_json:
        screen.show_json({one.name: conversation.messages(one.name) for one in session.answering})
        return
    if conversation.system is not None:
        screen.show(f"system: {conversation.system}")
    for turn in conversation.turns:
        for message in turn.asked:
            screen.show(f">>> {message['content']}")
        for name, answer in turn.answers.items():
            is_named = len(turn.answers) > 1
            screen.show(f"{name}: {answer['content']}" if is_named else answer["content"])
    if not conversation.turns:
        screen.show("Nothing was asked yet.")


def _retry(session: Session, rest: str) -> None:
    session.retry()
    if not session.settings.temperature:
        session.screen.note("A greedy answer is the same one again; /set temperature 0.7 draws others.")


def _undo(session: Session, rest: str) -> None:
    asked = session.undo().asked[-1]["content"]
    first = next(iter(asked.splitlines()), "")
    session.screen.note(f"Taken back: {first[:60]}{'...' * (first != asked or len(first) > 60)}")


def _save(session: Session, rest: str) -> None:
    names = _words(rest)
    if len(names) != 1:
        raise CommandError("/save FILE: name one file; it gets the conversation as a row of messages.")
    path = Path(names[0]).expanduser().absolute()
    count = save_conversation(session.conversation, path, [speaker.name for speaker in session.speakers])
    of_base = ", without what the base has said" if session.bases else ""
    cut = {name for turn in session.conversation.turns for name in turn.cut} & {one.name for one in session.speakers}
    as_it_is = " An answer that was cut is saved as it stands." if cut else ""
    session.screen.note(
        f"{names[0]} has {count} conversation{'s' * (count != 1)} now{of_base}; train on it with "
        f"data.path={shlex.quote(names[0])} data.format=messages.{as_it_is}"
    )


def _load(session: Session, rest: str) -> None:
    words = _words(rest)
    if len(words) not in (1, 2) or (len(words) == 2 and not (words[1].isdecimal() and int(words[1]))):
        raise CommandError("/load FILE goes on with the last conversation of a file, /load FILE 3 with its third.")
    load(session, words[0], int(words[1]) if len(words) == 2 else None)


def load(session: Session, name: str, place: int | None) -> None:
    """Go on with a conversation of a file. :raises DataError: there is none."""
    conversation, count, remark = read_conversation(Path(name).expanduser(), place)
    session.begin_anew()
    session.conversation = conversation
    parts = [f"{len(conversation.turns)} turn{'s' * (len(conversation.turns) != 1)} of {name}"]
    parts += [f"conversation {place or count} of {count}"] if count > 1 else []
    parts += [remark] if remark else []
    parts += [] if conversation.is_answered else ["it ends with a question: /retry answers it"]
    session.screen.note("; ".join(parts))


def _think(session: Session, rest: str) -> None:
    screen = session.screen
    if rest in ("show", "hide"):
        screen.shows_thinking = rest == "show"
        screen.note(f"Thinking is {'shown' if screen.shows_thinking else 'hidden'}.")
        return
    if rest not in ("", "on", "off", "auto"):
        raise CommandError(
            f"/think {rest}: on and off tell the template, auto lets it decide; show and hide are for what is printed."
        )
    lacking = [speaker.name for speaker in session.answering if not speaker.has_thinking_switch]
    if rest and len(lacking) == len(session.answering):
        raise CommandError(
            f"/think {rest}: the template of {' and '.join(lacking)} has no switch for it (enable_thinking). "
            "/think hide leaves out what is printed of it."
        )
    if rest:
        session.thinks = {"on": True, "off": False, "auto": None}[rest]
    state = {True: "on", False: "off", None: "as the template has it"}[session.thinks]
    without = f"; the template of {' and '.join(lacking)} has no switch for it" if lacking and session.bases else ""
    screen.note(f"Thinking: {state}, {'shown' if screen.shows_thinking else 'hidden'}{without}.")


def _compare(session: Session, rest: str) -> None:
    if rest not in ("", "on", "off"):
        raise CommandError(f"/compare {rest}: on or off; alone it switches.")
    is_on = not session.bases if rest == "" else rest == "on"
    session.compare(is_on)
    names = " and ".join(speaker.name for speaker in session.bases)
    session.screen.note(f"{names} answers too." if is_on else "The runs answer alone.")


def _checkpoint(session: Session, rest: str) -> None:
    if not rest:
        for speaker in session.speakers:
            session.screen.show(f"{speaker.name}: {', '.join(_weights(speaker))}")
        return
    if rest != _FINAL and not (rest.isdecimal() and int(rest)):
        raise CommandError(f"/checkpoint {rest}: the step of a checkpoint, or final. /checkpoint alone lists them.")
    step = None if rest == _FINAL else int(rest)
    found = [session.models.load_run(place, step) for place in range(len(session.speakers))]
    session.speakers = found
    for speaker in found:
        remark = speaker.policy.weights.remark
        session.screen.note(f"{speaker.name}: {_label(speaker)}{f'; {remark}' if remark else ''}")


def _weights(speaker: Speaker) -> list[str]:
    """What there is of a run, newest first, with a mark at what answers."""
    weights, run_dir = speaker.policy.weights, speaker.policy.run_dir
    files = run_dir.phase_files(weights.phase.folder)
    there = [_FINAL] if files.final.is_dir() else []
    there += [str(step_of(path)) for path in checkpoints(files.folder) if is_whole(path)]
    at_work = _FINAL if weights.step is None else str(weights.step)
    return [f"{name} (answers now)" if name == at_work else name for name in there]


def _label(speaker: Speaker) -> str:
    step = speaker.policy.weights.step
    return f"{_FINAL} weights" if step is None else f"checkpoint of step {step}"


def _quit(session: Session, rest: str) -> None:
    session.is_over = True


def _words(rest: str) -> list[str]:
    try:
        return shlex.split(rest)
    except ValueError:
        raise CommandError(f"{rest}: a quotation mark has no other.") from None


def _shown(value: object) -> str:
    return "none" if value is None else str(value)


COMMANDS: Sequence[Command] = (
    Command(("help", "?"), "", "this list", _help),
    Command(("new", "clear"), "", "a new conversation; the system message stays", _new),
    Command(("system",), "[TEXT]", "shows the system message, or sets it; /system off takes it away", _system),
    Command(("set",), "[KEY VALUE]", "shows how answers are written, or changes it", _set),
    Command(("status",), "", "who answers with which weights, settings, how full the context is", _status),
    Command(("history",), "", "the conversation so far", _history),
    Command(("retry",), "", "asks the last question again", _retry),
    Command(("undo",), "", "takes the last question and its answers back", _undo),
    Command(("save",), "FILE", "adds the conversation to a file that can be trained on", _save),
    Command(("load",), "FILE [N]", "goes on with the last conversation of a file, or its Nth", _load),
    Command(("think",), "[on|off|auto|show|hide]", "thinking of models that do so", _think),
    Command(("compare",), "[on|off]", "what the runs began with answers too", _compare),
    Command(("checkpoint",), "[STEP|final]", "lists the weights of the runs, or takes others", _checkpoint),
    Command(("quit", "exit", "bye"), "", "leaves", _quit),
)

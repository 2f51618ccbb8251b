"""The report of an audit as markdown, of what was measured as JSON. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Json = dict[str, Any]
_HEADING = "# Privacy audit"
_WARNING = (
    "**This folder has pictures of the images that were audited, and what attacks made of them. It "
    "was written for the site alone.**"
)
_FAILED = (
    "**An attack that failed proves nothing.** A better one may succeed. Only the theorems below "
    "hold for attacks that nobody has thought of."
)


def write_markdown(document: Json) -> str:
    """The whole report."""
    parts = [
        _HEADING,
        _WARNING,
        _table([{"": name, "audited": str(value)} for name, value in document["subject"].items()]),
        "## What to do",
        "\n".join(f"- {line}" for line in document["advice"]),
        "## What is proved and what is measured",
        _theorems(document),
        _FAILED,
        "## Images",
        _images(document["images"]),
        _notes(document["images"]),
    ]
    if document["curves"]:
        parts.append(f"![leakage against steps and cohort]({document['curves']})")
    parts += [
        f"![images: {row['images']}, steps: {row['steps']}; from above: original, reconstruction, "
        f"class mean, nearest public image]({row['picture']})"
        for row in document["images"]
        if "picture" in row
    ]
    if document["chosen"]:
        parts += ["## Weights of the coordinator's choice", _chosen(document["chosen"])]
        parts += [_CHOSEN_NOTES]
        parts += [
            f"![images: {row['images']}, steps: {row['steps']}, those that came out best]"
            f"({row['picture']})"
            for row in document["chosen"]
            if "picture" in row
        ]
    parts += ["## Membership and labels", _inference(document["inference"]), _INFERENCE_NOTES]
    if document["cohorts"]:
        parts += ["## Sums", _cohorts(document["cohorts"]), _SUM_NOTES]
    if document["rounds"]:
        parts += ["## Sums of many rounds", _rounds(document["rounds"]), _ROUNDS_NOTES]
    parts += ["## What was not tried", "\n".join(f"- {line}" for line in _NOT_TRIED)]
    return "\n\n".join(parts) + "\n"


def _theorems(document: Json) -> str:
    rows = []
    if document["is_protected"]:
        rows.append(
            {
                "statement": "the coordinator learns the sum of a cohort's updates and no single "
                "one, if fewer than a third of the cohort help it",
                "kind": "theorem (Bonawitz et al., 2017)",
            }
        )
    else:
        rows.append(
            {
                "statement": "the coordinator sees every client's update",
                "kind": "how a federation without protection works",
            }
        )
    if document["subject"]["method"] == "fedpac":
        rows.append(
            {
                "statement": "all clients read an update's head, class means and class shares",
                "kind": "how the method works",
            }
        )
    if (privacy := document["privacy"]) is not None:
        honest = ", if as many clients are honest as the noise is made for"
        rows.append(
            {
                "statement": f"in {privacy['rounds']} rounds the changes that are sent are "
                f"({privacy['epsilon']:g}, {privacy['delta']:g})-private for each {privacy['unit']}"
                + (honest if document["is_protected"] else ""),
                "kind": "theorem (Dwork et al., 2006), accounted by privacy loss distributions",
            }
        )
    rows.append(
        {
            "statement": "every line below",
            "kind": "measurement of these attacks, on these images, at these weights",
        }
    )
    return _table(rows)


def _images(rows: Sequence[Json]) -> str:
    return _table([_image_row(row) for row in rows])


def _image_row(row: Json) -> Json:
    found = _round_cells(row)
    if "refused" in row:
        return found | dict.fromkeys(_IMAGE_COLUMNS, "–") | {"verdict": row["refused"]}
    best = row["attacks"][row["strongest"]]
    worst = row["worst_client"]
    cells = (
        row["strongest"],
        _interval(best["psnr"]),
        f"{best['blind'][0]:.1f} ({best['blind'][1]})",
        f"{best['similar']:.1f}",
        f"{best['ssim']:.2f}",
        f"{best['first']:.0%}",
        f"{worst['gain']['mean']:+.1f} dB",
        f"**{row['says']}**" if row["says"] != "gains nothing" else row["says"],
    )
    return found | dict(zip(_IMAGE_COLUMNS, cells, strict=True))


def _round_cells(row: Json) -> Json:
    epsilon = row.get("epsilon")
    return {
        "images": row["images"],
        "steps": f"{row['steps']}{' (as configured)' if row['is_configured'] else ''}",
        "clients in the sum": row["cohort"],
        **({} if epsilon is None else {"ε": f"{epsilon:g}"}),
        "your policy": "takes part" if row["policy"] is None else f"refuses: {row['policy']}",
    }


_IMAGE_COLUMNS = (
    "strongest attack",
    "PSNR, dB",
    "best blind guess",
    "nearest public image",
    "SSIM",
    "identified",
    "worst client, over class mean",
    "verdict",
)


def _notes(rows: Sequence[Json]) -> str:
    candidates = max((row.get("candidates", 0) for row in rows), default=0)
    return (
        "Means over the images, with bootstrap intervals of 95 %. Each image is matched with the "
        "attack's best candidate. A blind guess needs no update: the mean public image, the mean "
        "of the image's class, or as many random public images as the attack has candidates. "
        f"*Identified*: images that are nearer to their reconstruction than any of "
        f"{min(candidates, 999)} other images. **recovered**: better than the public image nearest "
        "to the original, which no attacker knows. **gains**: better than the best blind guess, or "
        "more images are identified than chance explains. Attacks see other public images than "
        "those that they are compared with. IG is told the labels."
    )


_CHOSEN_NOTES = (
    "The coordinator publishes weights whose neurons fire for one image of all that are summed, "
    "and divides. *Found*: images to which a reconstruction is nearer than any public image. "
    "*Strangers*: images that nobody trained on, to which one is nearer just so: what chance does. "
    "*By chance*: probability of so many finds if clients' images were no likelier than strangers. "
    "PSNR is of the best six, beside their nearest public images. Accuracy is the client's on its "
    "test split before it trains, at the weights as they are and at those chosen. "
    "`maximum_accuracy_drop` refuses a round by it, if the weights do not hide what they do. "
    "Version 0 is built from the specification's seed, so that it cannot be chosen; later versions "
    "are the coordinator's word. All members of a secure sum have the same weights, those of the "
    "terms that they sign."
)
_INFERENCE_NOTES = (
    "AUC: chance that a training image scores higher than another; 0.5 is a guess. True positives: "
    "training images found where 1 % of the others are taken for some. Label distance: total "
    "variation between the inferred and the true histogram of classes; the guess is the better of "
    "a uniform one and that of the public images. By chance: shuffles of the inferred histogram "
    "that are as near."
)
_SUM_NOTES = (
    "Cosine between a client's own part of the update and what is nearest to it: mean, and worst "
    "client, over all draws of cohorts. The sum itself is what every secure sum shows. A sum comes "
    "apart where an attack finds a part better than that by more than 0.05. Features are known to "
    "whoever saw an earlier update in the clear. So are embeddings, for which a coordinator that "
    "lies can choose the trunk; that part is compared with the sum at this trunk."
)
_ROUNDS_NOTES = (
    "Cosine between a client's own part of the updates, all its rounds added, and what is found: "
    "mean and worst client. The sums themselves are the mean of those that the client was in. The "
    "attack is told who was in which sum, as a coordinator is."
)
_NOT_TRIED = (
    "unrolled steps of sums, of many images times steps, and in a quick audit; unmixing of sums "
    "that have noise for whole clients",
    "weights chosen in other ways, such as traps that leave the accuracy as it is, or that are set "
    "anew in each of many rounds",
    "learned attacks, such as decoders or diffusion models trained on images like these",
    "frozen backbones, and methods of your own",
)


def _chosen(rows: Sequence[Json]) -> str:
    return _table([_chosen_row(row) for row in rows])


def _chosen_row(row: Json) -> Json:
    found = _round_cells(row)
    columns = ("found", "strangers", "by chance", "PSNR, dB", "accuracy", "verdict")
    if "refused" in row:
        return found | dict.fromkeys(columns, "–") | {"verdict": row["refused"]}
    has_candidates = "psnr" in row
    cells = (
        f"{row['found']} of {row['images_sought']}",
        f"{row['strangers_found']} of {row['strangers']}",
        f"{row['by_chance']:.1%}",
        f"{row['psnr']:.1f} beside {row['similar']:.1f}" if has_candidates else "–",
        f"{row['accuracy']:.0%}, {row['accuracy_chosen']:.0%}",
        f"**{row['says']}**" if row["says"] != "gains nothing" else row["says"],
    )
    return found | dict(zip(columns, cells, strict=True))


def _inference(rows: Sequence[Json]) -> str:
    return _table([_inference_row(row) for row in rows])


def _inference_row(row: Json) -> Json:
    found = _round_cells(row)
    columns = (
        "membership AUC",
        "true positives at 1 %",
        "label distance",
        "label guess",
        "by chance",
    )
    if "refused" in row:
        return found | dict.fromkeys(columns, "–") | {columns[0]: row["refused"]}
    cells = (
        f"{row['auc']:.2f} ({row['auc_low']:.2f} to {row['auc_high']:.2f})",
        f"{row['true_positives_at_1_percent']:.1%}",
        f"{row['label_distance']:.2f}",
        f"{row['blind_label_distance']:.2f}",
        f"{row['label_chance']:.1%}",
    )
    return found | dict(zip(columns, cells, strict=True))


def _cohorts(rows: Sequence[Json]) -> str:
    names = {
        "sum": "the sum itself",
        "blind": "blind",
        "known": "features known",
        "steered": "trunk chosen",
    }
    return _table(
        [
            {"clients in the sum": row["cohort"], "draws": row["draws"]}
            | {
                f"{shown}: mean / worst": (
                    f"{row[name]['mean']:.2f} / {row[name]['worst']:.2f}" if name in row else "–"
                )
                for name, shown in names.items()
            }
            | {"verdict": "**comes apart**" if row["comes_apart"] else "no better than the sum"}
            for row in rows
        ]
    )


def _rounds(rows: Sequence[Json]) -> str:
    return _table(
        [
            {"cohorts": row["cohorts"], "clients": row["clients"], "rounds": row["rounds"]}
            | {
                f"{shown}: mean / worst": f"{row[name]['mean']:.2f} / {row[name]['worst']:.2f}"
                for name, shown in (("sum", "the sums themselves"), ("found", "found"))
            }
            | {
                "verdict": "**gives parts away**"
                if row["comes_apart"]
                else "no better than the sums"
            }
            for row in rows
        ]
    )


def _interval(one: Mapping[str, float]) -> str:
    return f"{one['mean']:.1f} ({one['low']:.1f} to {one['high']:.1f})"


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return "Nothing was measured."
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([str(row[one]) for one in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

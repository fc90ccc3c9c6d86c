"""The parameters of requests, from the query string or from a form; `Query` has their defaults."""

import inspect
from collections.abc import Collection, Iterable, Mapping
from typing import Annotated, Any, Literal

import fastapi
from fastapi import Body, Depends, File, Form, Path, Request, UploadFile

from hashnet.errors import ArgumentError
from hashnet.network.own_backbones import MAX_FEATURE_DIM
from hashnet.retrieval.search.query import MOST_RERANKED, Query
from hashnet.retrieval.service.settings import MAX_IDS, MAX_K, MAX_LABELS, MAX_MARKED, MAX_TEXT
from hashnet.retrieval.words.plain import MOST_LETTERS

Region = tuple[int, int, int, int]

_REGION = r"^[0-9]{1,6}(,[0-9]{1,6}){3}$"
_DATE = r"^[0-9][0-9T:. -]{3,25}$"
_REGION_MEANS = "Y0,X0,Y1,X1 in pixels of the upright query: only this part of it."

Text = Annotated[str, fastapi.Query(min_length=1, max_length=MAX_TEXT)]
PostedText = Annotated[str, Form(min_length=1, max_length=MAX_TEXT)]
RegionText = Annotated[str | None, fastapi.Query(pattern=_REGION, description=_REGION_MEANS)]
PostedRegionText = Annotated[str | None, Form(pattern=_REGION, description=_REGION_MEANS)]
Id = Annotated[str, Path(max_length=MAX_TEXT, description="As answers show it, URL-encoded.")]
Vector = Annotated[
    list[float],
    Body(
        embed=True,
        min_length=1,
        max_length=MAX_FEATURE_DIM,
        description="A feature that the index's network, or the one it stands for, has given.",
    ),
]
Image = Annotated[UploadFile, File(description="A picture; JPEG, PNG, WebP, BMP, GIF or TIFF.")]


def box(region: str | None) -> Region | None:
    """Read a region.

    Args:
        region: str, as its pattern allows; or None or "" for none.

    Returns:
        (top, left, bottom, right), or None.
    """
    if not region:
        return None
    top, left, bottom, right = map(int, region.split(","))
    return top, left, bottom, right


# The parameters that every search takes: name, type, default, what FastAPI is told of it.
_OF_SEARCHES: tuple[tuple[str, Any, Any, dict[str, Any]], ...] = (
    ("k", int, Query.k, {"ge": 1, "le": MAX_K, "description": "Hits wanted."}),
    (
        "threshold",
        int | None,
        Query.threshold,
        {"ge": 1, "le": 1025, "description": "The pool holds Hamming distances below this."},
    ),
    (
        "pool",
        int | None,
        Query.pool,
        {"ge": 1, "le": 2**31, "description": "Instead of a threshold: least size of the pool."},
    ),
    *(
        (name, list[str], [], {"max_length": most, "description": text})
        for name, most, text in (
            ("label", MAX_LABELS, "Only images with one of these labels."),
            ("ids", MAX_IDS, "Only images of these ids."),
            ("right", MAX_MARKED, "Ids of hits that are right."),
            ("wrong", MAX_MARKED, "Ids of hits that are wrong."),
        )
    ),
    *(
        (name, str | None, None, {"pattern": _DATE, "description": text})
        for name, text in (
            ("after", "Only photos taken on this date or later, as 2026-05-01 or 2026."),
            ("before", "Only photos taken before this date."),
        )
    ),
    (
        "under",
        list[str],
        [],
        {"max_length": MAX_LABELS, "description": "Only images in these folders, as ids begin."},
    ),
    (
        "text",
        str | None,
        None,
        {"max_length": MAX_TEXT, "description": "What hits are to show besides, in words."},
    ),
    (
        "text_weight",
        float,
        Query.text_weight,
        {"ge": 0, "le": 1, "description": "How far the query moves towards these words."},
    ),
    ("region", str | None, None, {"pattern": _REGION, "description": _REGION_MEANS}),
    (
        "rank_by",
        Literal["both", "feature"],
        Query.rank_by,
        {"description": "Rank by codes and features together, or by features alone."},
    ),
    (
        "rerank",
        Literal["aqe", "alpha_qe", "dba", "k_reciprocal", "diffusion"] | None,
        Query.rerank,
        {"description": "Rank the first hits again, by how they lie to each other."},
    ),
    (
        "rerank_top",
        int,
        Query.rerank_top,
        {"ge": 1, "le": MOST_RERANKED, "description": "How many are ranked again."},
    ),
    (
        "rerank_neighbours",
        int | None,
        Query.rerank_neighbours,
        {"ge": 1, "le": MOST_RERANKED, "description": "How many neighbours it goes by."},
    ),
    (
        "until_unlike",
        bool,
        Query.until_unlike,
        {"description": "Of these hits, only those that are like the query."},
    ),
    (
        "verify",
        bool,
        Query.verify,
        {
            "description": "Compare local features, also of images that these find, and put those "
            "that match first."
        },
    ),
    (
        "same_object",
        bool,
        Query.same_object,
        {"description": "Find by local features alone, whatever the rest of the photo shows."},
    ),
    (
        "written",
        bool,
        Query.written,
        {
            "description": "Also read the text in the picture, and put images first in which the "
            "same was read."
        },
    ),
    (
        "matcher",
        Literal["nearest", "lightglue"],
        Query.matcher,
        {"description": "What matches them; the network LightGlue the ten first once more."},
    ),
)


class _SearchParameters:
    """What FastAPI calls with the parameters of a search, which it reads off the signature.

    Args:
        kind: `fastapi.Query` for the query string, `fastapi.Form` for a form.
        names: collection of str, those of the parameters that are taken; None for all.
    """

    def __init__(self, kind: Any, names: Collection[str] | None = None) -> None:
        text = Annotated[str, kind(max_length=MAX_TEXT)]
        self.__signature__ = inspect.Signature(
            [
                inspect.Parameter(
                    name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=default,
                    annotation=Annotated[list[text] if type_ == list[str] else type_, kind(**told)],
                )
                for name, type_, default, told in _OF_SEARCHES
                if names is None or name in names
            ]
        )

    def __call__(self, **given: Any) -> dict[str, Any]:
        return given


# What a search in words has a use for.
_OF_WORDS = ("k", "label", "ids", "after", "before", "under")
_IN_ADDRESS, _IN_FORM = _SearchParameters(fastapi.Query), _SearchParameters(Form)


async def _posted(
    request: Request,
    in_address: Annotated[dict[str, Any], Depends(_IN_ADDRESS)],
    in_form: Annotated[dict[str, Any], Depends(_IN_FORM)],
) -> dict[str, Any]:
    """The parameters of a search that posts a picture, each from the form or the query string."""
    form = await request.form()
    twice = [name for name in in_form if name in form and name in request.query_params]
    if twice:
        raise ArgumentError(
            "A parameter is given in the form or in the query string.",
            f"{', '.join(twice)} in both",
        )
    return {
        name: in_address[name] if name in request.query_params else value
        for name, value in in_form.items()
    }


SearchParameters = Annotated[dict[str, Any], Depends(_IN_ADDRESS)]
WordParameters = Annotated[dict[str, Any], Depends(_SearchParameters(fastapi.Query, _OF_WORDS))]
Words = Annotated[
    str,
    fastapi.Query(
        min_length=1,
        max_length=MOST_LETTERS,
        description="What is looked for, in words; all of it is taken literally.",
    ),
]
PostedSearchParameters = Annotated[dict[str, Any], Depends(_posted)]


async def refuse_unknown(request: Request) -> None:
    """Name the parameters in the query string, and the fields of a body, that a question lacks.

    Args:
        request: the request.

    Raises:
        ArgumentError: there is one.
    """
    path, method = request.scope["route"].path_format, request.method.lower()
    document = request.app.openapi()
    described = document["paths"].get(path, {}).get(method, {})
    if "422" not in described.get("responses", {}):  # the page keeps its state there
        return
    parameters = described.get("parameters", [])
    _refuse_others(
        "A question has no parameters in its address but its own.",
        request.query_params,
        [one["name"] for one in parameters if one["in"] == "query"],
    )
    for kind, of_kind in described.get("requestBody", {}).get("content", {}).items():
        model = of_kind["schema"]["$ref"].rpartition("/")[2]
        # Either has been read before.
        if kind == "application/json":
            name, body = "JSON object", await request.json()
        else:
            name, body = "form", await request.form()
        _refuse_others(
            f"A {name} has no fields but those of its question.",
            body if isinstance(body, Mapping) else (),
            document["components"]["schemas"][model]["properties"],
        )


def _refuse_others(rule: str, given: Iterable[str], known: Collection[str]) -> None:
    unknown = [name for name in dict.fromkeys(given) if name not in known]
    if unknown:
        taken = ", ".join(sorted(known)) or "none"
        raise ArgumentError(rule, ", ".join(unknown)[:1000], f"They are: {taken}.")

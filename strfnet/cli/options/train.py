"""The arguments of `strfnet train`."""

from dataclasses import dataclass, field
from pathlib import Path

from strfnet.cli.options.groups import check_model
from strfnet.data.readers.formats import FORMATS
from strfnet.evaluation.protocols import PROTOCOLS
from strfnet.system.names import check_name
from strfnet.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a network on a data set, or resume a training run.

    Args:
        out: Folder of the run. If it contains a run that was stopped, training resumes.
        data_changed: Resume although the training tracklets have changed, at the beginning of the epoch.
        unsaid: Fields of the recipe that are derived from the weights and the data, because they are not given.
    """

    out: Path = field(metadata={"metavar": "DIR"})
    data_changed: bool = False
    recipe: Recipe
    unsaid: tuple[str, ...] = field(default=(), metadata={"names_of_derived": True})

    def __post_init__(self) -> None:
        recipe = self.recipe
        check_model(recipe.model)
        recipe.check_names({"protocol": PROTOCOLS, **({} if recipe.format is None else {"format": FORMATS})})
        recipe.check_device()
        for entry in recipe.more_data:
            format, _, path = entry.partition(":")
            if not path:
                raise ValueError(f"more_data holds {entry!r}, wanted format:path, such as duke:/data/Duke")
            check_name("format", format, FORMATS)
        if recipe.more_data and recipe.data is None:
            raise ValueError(f"more_data is {list(recipe.more_data)} without data, wanted data to evaluate on")
        if (recipe.data is None) != (recipe.format is None):
            wanted = "wanted both, or neither for synthetic walkers"
            raise ValueError(f"data is {recipe.data} and format is {recipe.format}, {wanted}")

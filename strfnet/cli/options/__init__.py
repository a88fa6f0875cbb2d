"""The arguments of each command as a record, in the module of its name.

The parser reads names, types, defaults and help texts from the records.
"""

from strfnet.cli.options.check import Check
from strfnet.cli.options.convert import Convert
from strfnet.cli.options.crop import Crop
from strfnet.cli.options.embed import Embed
from strfnet.cli.options.evaluate import Evaluate
from strfnet.cli.options.export import Export
from strfnet.cli.options.index import Index
from strfnet.cli.options.models import Models
from strfnet.cli.options.profile import Profile
from strfnet.cli.options.search import Search
from strfnet.cli.options.show import Show
from strfnet.cli.options.train import Train

COMMANDS: dict[str, type] = {
    record.__name__.lower(): record
    for record in (Models, Profile, Convert, Crop, Check, Train, Evaluate, Embed, Search, Index, Show, Export)
}

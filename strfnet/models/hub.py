"""Networks on the Hugging Face hub or in a local folder of its format, as one file of `strfnet.save`."""

from pathlib import Path
from typing import Any

from strfnet.models.checkpoints import load, save
from strfnet.models.network import ReIDNetwork

try:
    from huggingface_hub import ModelHubMixin, hf_hub_download
except ImportError as error:
    raise ImportError('strfnet.models.hub needs huggingface_hub: pip install "strfnet[hub]"') from error

FILE = "network.safetensors"


class HubNetwork(ModelHubMixin):
    """A network with ``save_pretrained``, ``from_pretrained`` and ``push_to_hub`` of huggingface_hub.

    Args:
        network: built by `strfnet.create_model`; the attribute ``network`` of what ``from_pretrained`` returns.

    Raises: ValueError as `strfnet.save` and `strfnet.load` do.
    """

    def __init__(self, network: ReIDNetwork) -> None:
        self.network = network

    def _save_pretrained(self, save_directory: Path) -> None:
        save(self.network, save_directory / FILE)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **options: Any) -> "HubNetwork":
        """Load from the folder of that name if it exists, else from the hub, with the ``options`` of the download."""
        path = Path(model_id, FILE)
        if not path.parent.is_dir():
            known = ("revision", "cache_dir", "force_download", "local_files_only", "token")
            path = Path(hf_hub_download(model_id, FILE, **{name: options[name] for name in known if name in options}))
        return cls(load(path))

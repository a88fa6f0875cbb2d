"""`strfnet index`."""

from strfnet.cli.options.index import Index
from strfnet.inference import add_to_index


def run(call: Index) -> None:
    gallery = add_to_index(call.out, *call.embeddings, faiss=call.faiss, recall=call.recall)
    count, width = gallery.vectors.shape
    print(f"{count} embeddings of {width} numbers are in {call.out}")
    if gallery.approximate is not None:
        found = gallery.approximate
        recall = f"recall of the 10 nearest against exact search: {gallery.recall():.4f}"
        print(f"faiss searches {found.probes} of {found.lists} lists; {recall}")

"""The pairs of a run inside a Gradio page of your own.

    szpo run --preset people --set run.name=mine   # holds the model, waits for votes
    python examples/vote_in_blocks.py mine         # in a second terminal: the page

All votes here are those of one local evaluator. People who log in vote at `szpo serve`.
"""

import sys

import gradio as gr

import szpo_ui


def page(run: str) -> gr.Blocks:
    with gr.Blocks(title=f"votes on {run}") as made:
        gr.Markdown(f"# {run}")
        votes = gr.Number(0, label="Votes in this tab", elem_id="votes")
        comparison = szpo_ui.Comparison(run, name="me")
        comparison.voted(lambda count: count + 1, votes, votes)
    return made


if __name__ == "__main__":
    page(sys.argv[1]).launch()

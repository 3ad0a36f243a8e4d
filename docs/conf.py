from importlib.metadata import version as version_of

project = "Breezeblock"
copyright = "the Breezeblock authors"
release = version_of("breezeblock")
version = release

extensions = ["myst_parser", "sphinx.ext.autodoc"]
html_theme = "furo"
html_title = f"Breezeblock {release}"
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "description"
exclude_patterns = ["_build"]

"""Results as pages: one HTML file each, with all that it shows inside it, that opens anywhere without a network.

``predictions`` and ``evaluation`` say what is on the two pages, ``page`` what every page has in common; the markup, the
style and the scripts are files in ``templates/``. Jinja escapes whatever is put into them.
"""

"""What `metanet.report` is made of, in the order of the flow.

record.py      a run folder as it lies on disk
comparison.py  which runs may stand side by side; scores, intervals, paired differences
findings.py    a comparison in words and tables, the same for every form of the report
tables.py      a table for the terminal, Markdown and HTML
figures.py     plotly specifications
page.py        the HTML file around them
"""

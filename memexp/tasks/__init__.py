"""The fact tests of Zhang, Li & Wu 2024 (arXiv 2409.14057) as tasks of lm-evaluation-harness.

`memexp.QA` and `memexp.Choice` use them on any items. On the published dataset the harness takes them by itself:

    lm_eval --include_path $(python -c "import memexp.tasks as t; print(*t.__path__)") --tasks country_city_animals ...

Task files and the functions they name, which the harness imports by itself: they import nothing of memexp.
`memexp.probes` reads the files; nothing else of memexp imports from here.
"""

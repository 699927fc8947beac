"""What a store holds, for people: how far sweeps are, what they found, whether files are whole, answers to SQL.

- `progress`: of a sweep under way. `status`: of every sweep of a store.
- `summary`: means of the headlines, as tables. `terminal`: prints them.
- `answer`: one SELECT. `verify`: every file.
- `output`: where nobody listens.

Reads plans, searches and the store, and changes none; knows neither torch nor Ray. The driver, the sweep, the exchange
and the command line import it.
"""

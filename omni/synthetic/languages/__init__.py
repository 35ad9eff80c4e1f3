"""Languages of the world besides English: sentences from templates, or from a file, spoken by eSpeak NG.

`templates` has sentences with slots and the words that fill them; each language is one file with its words, its grammar
and its templates; `spoken` makes the world's documents and utterances from one of them.
"""

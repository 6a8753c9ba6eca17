"""Faults that stand, one small input each.

A case says what should happen. While it does not happen, the case is a strict expected failure (``xfail``): to mend the
fault is to take the mark away. Each mark names the exception by which its case fails today, so a case that breaks for
another reason, such as a renamed option or function, is an ordinary failure.
"""

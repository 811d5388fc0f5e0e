"""Which registrations are good enough: the correlation gate, the review sheet, what may go on.

``gate`` finds the correlation that stands for enough overlap, ``review_sheet`` keeps the gate's and
people's verdicts in one file and gives later chapters what was accepted, nothing else.
"""

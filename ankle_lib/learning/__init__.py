"""Networks: built, trained once, kept, applied to images and scored; chapters 05 to 07."""

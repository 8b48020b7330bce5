"""Update rules that are meta-trained, and the parts that they are made of."""

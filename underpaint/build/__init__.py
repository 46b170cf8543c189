"""How a family becomes a model repository: recipes, training, export, rendering."""

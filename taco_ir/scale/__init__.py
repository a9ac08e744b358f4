"""One piece of work in many hands: units, and the engines whose workers do them, on one machine or on many."""

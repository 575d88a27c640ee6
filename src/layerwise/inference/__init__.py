"""From a trained network to answers: prediction, evaluation, engines and export."""

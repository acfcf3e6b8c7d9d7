"""Operations with one public function each; an XLA form that runs everywhere is the reference for the others."""

"""How weights are stored: the schemes, the choice of scales, and the way back to float32."""

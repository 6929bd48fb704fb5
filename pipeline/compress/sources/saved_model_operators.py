"""The operators that a SavedModel may hold, because they only compute: a model from a stranger is a program.

Loading a SavedModel already runs some of its functions, and converting it runs more of them, so the whole file is
looked at, not one signature. What is not named here is refused: TensorFlow has operators that read or write files
without being marked as stateful (ReadFile, ImmutableConst, DebugIdentity with a file's address), and the next release
may have others. A test holds the names against the installed TensorFlow's own list.
"""

# ruff: noqa: SIM905 - as lists of words they fill a tenth of the lines

from collections.abc import Iterator
from typing import Any

NUMERIC = frozenset(
    """
    Abs AccumulateNV2 Acos Acosh Add AddN AddV2 AdjustContrast AdjustContrastv2 AdjustHue AdjustSaturation All Angle
    Any ApproxTopK ApproximateEqual ArgMax ArgMin Asin Asinh Atan Atan2 Atanh AudioSpectrogram AvgPool AvgPool3D
    AvgPool3DGrad AvgPoolGrad BandedTriangularSolve BatchMatMul BatchMatMulV2 BatchMatMulV3 BatchToSpace
    BatchToSpaceND BesselI0 BesselI0e BesselI1 BesselI1e BesselJ0 BesselJ1 BesselK0 BesselK0e BesselK1 BesselK1e
    BesselY0 BesselY1 Betainc BiasAdd BiasAddGrad BiasAddV1 Bincount Bitcast BitwiseAnd BitwiseOr BitwiseXor
    BlockLSTM BlockLSTMGrad BlockLSTMGradV2 BlockLSTMV2 BroadcastArgs BroadcastGradientArgs BroadcastTo Bucketize
    CTCBeamSearchDecoder CTCGreedyDecoder CTCLoss CTCLossV2 Cast Ceil Cholesky CholeskyGrad ClipByValue
    CombinedNonMaxSuppression Complex ComplexAbs Concat ConcatOffset ConcatV2 Conj ConjugateTranspose Const
    ControlTrigger Conv2D Conv2DBackpropFilter Conv2DBackpropFilterV2 Conv2DBackpropInput Conv2DBackpropInputV2
    Conv3D Conv3DBackpropFilter Conv3DBackpropFilterV2 Conv3DBackpropInput Conv3DBackpropInputV2 Cos Cosh
    CropAndResize CropAndResizeGradBoxes CropAndResizeGradImage Cross Cumprod Cumsum CumulativeLogsumexp
    DataFormatDimMap DataFormatVecPermute Dawsn DenseBincount DenseCountSparseOutput DenseToDenseSetOperation
    DenseToSparseSetOperation DepthToSpace DepthwiseConv2dNative DepthwiseConv2dNativeBackpropFilter
    DepthwiseConv2dNativeBackpropInput Diag DiagPart Digamma Dilation2D Dilation2DBackpropFilter
    Dilation2DBackpropInput Div DivNoNan DrawBoundingBoxes DrawBoundingBoxesV2 DynamicPartition DynamicStitch
    EditDistance Eig Einsum Elu EluGrad EnsureShape Enter Equal Erf Erfc Erfinv EuclideanNorm Exit Exp ExpandDims
    Expint Expm1 ExtractGlimpse ExtractGlimpseV2 ExtractImagePatches ExtractVolumePatches FFT FFT2D FFT3D FFTND
    FakeParam FakeQuantWithMinMaxArgs FakeQuantWithMinMaxArgsGradient FakeQuantWithMinMaxVars
    FakeQuantWithMinMaxVarsGradient FakeQuantWithMinMaxVarsPerChannel FakeQuantWithMinMaxVarsPerChannelGradient Fill
    Floor FloorDiv FloorMod FresnelCos FresnelSin FusedBatchNorm FusedBatchNormGrad FusedBatchNormGradV2
    FusedBatchNormGradV3 FusedBatchNormV2 FusedBatchNormV3 GRUBlockCell GRUBlockCellGrad Gather GatherNd GatherV2
    Greater GreaterEqual HSVToRGB HistogramFixedWidth IFFT IFFT2D IFFT3D IFFTND IRFFT IRFFT2D IRFFT3D IRFFTND
    Identity IdentityN Igamma IgammaGradA Igammac Imag ImageProjectiveTransformV2 ImageProjectiveTransformV3 InTopK
    InTopKV2 Inv InvGrad Invert InvertPermutation IsFinite IsInf IsNan IsotonicRegression KthOrderStatistic L2Loss
    LRN LRNGrad LSTMBlockCell LSTMBlockCellGrad LeakyRelu LeakyReluGrad LeftShift Less LessEqual Lgamma LinSpace
    ListDiff Log Log1p LogMatrixDeterminant LogSoftmax LogicalAnd LogicalNot LogicalOr LoopCond LowerBound Lu MatMul
    MatrixBandPart MatrixDeterminant MatrixDiag MatrixDiagPart MatrixDiagPartV2 MatrixDiagPartV3 MatrixDiagV2
    MatrixDiagV3 MatrixExponential MatrixInverse MatrixLogarithm MatrixSetDiag MatrixSetDiagV2 MatrixSetDiagV3
    MatrixSolve MatrixSolveLs MatrixSquareRoot MatrixTriangularSolve Max MaxPool MaxPool3D MaxPool3DGrad
    MaxPool3DGradGrad MaxPoolGrad MaxPoolGradGrad MaxPoolGradGradV2 MaxPoolGradGradWithArgmax MaxPoolGradV2
    MaxPoolGradWithArgmax MaxPoolV2 MaxPoolWithArgmax Maximum Mean Merge Mfcc Min Minimum MirrorPad MirrorPadGrad
    Mod Mul MulNoNan Ndtri Neg NextAfter NextIteration NoOp NonMaxSuppression NonMaxSuppressionV2
    NonMaxSuppressionV3 NonMaxSuppressionV4 NonMaxSuppressionV5 NonMaxSuppressionWithOverlaps NotEqual NthElement
    OneHot OnesLike Pack Pad PadV2 ParallelConcat ParallelDynamicStitch Placeholder PlaceholderWithDefault Polygamma
    PopulationCount Pow PreventGradient Prod Qr QuantizeAndDequantize QuantizeAndDequantizeV2
    QuantizeAndDequantizeV3 QuantizeAndDequantizeV4 QuantizeAndDequantizeV4Grad RFFT RFFT2D RFFT3D RFFTND RGBToHSV
    RaggedBincount RaggedCountSparseOutput RaggedFillEmptyRows RaggedFillEmptyRowsGrad RaggedGather RaggedRange
    RaggedTensorToSparse RaggedTensorToTensor RandomGammaGrad Range Rank Real RealDiv Reciprocal ReciprocalGrad Relu
    Relu6 Relu6Grad ReluGrad Reshape ResizeArea ResizeBicubic ResizeBicubicGrad ResizeBilinear ResizeBilinearGrad
    ResizeNearestNeighbor ResizeNearestNeighborGrad Reverse ReverseSequence ReverseV2 RightShift Rint Roll Round
    Rsqrt RsqrtGrad ScaleAndTranslate ScaleAndTranslateGrad ScatterNd SegmentMax SegmentMaxV2 SegmentMean SegmentMin
    SegmentMinV2 SegmentProd SegmentProdV2 SegmentSum SegmentSumV2 Select SelectV2 SelfAdjointEig SelfAdjointEigV2
    Selu SeluGrad SetSize Shape ShapeN Sigmoid SigmoidGrad Sign Sin Sinh Size Slice SobolSample Softmax
    SoftmaxCrossEntropyWithLogits Softplus SoftplusGrad Softsign SoftsignGrad SpaceToBatch SpaceToBatchND
    SpaceToDepth SparseAdd SparseAddGrad SparseBincount SparseConcat SparseCountSparseOutput SparseDenseCwiseAdd
    SparseDenseCwiseDiv SparseDenseCwiseMul SparseFillEmptyRows SparseFillEmptyRowsGrad SparseMatMul SparseReduceMax
    SparseReduceMaxSparse SparseReduceSum SparseReduceSumSparse SparseReorder SparseReshape SparseSegmentMean
    SparseSegmentMeanGrad SparseSegmentMeanGradV2 SparseSegmentMeanWithNumSegments SparseSegmentSqrtN
    SparseSegmentSqrtNGrad SparseSegmentSqrtNGradV2 SparseSegmentSqrtNWithNumSegments SparseSegmentSum
    SparseSegmentSumGrad SparseSegmentSumGradV2 SparseSegmentSumWithNumSegments SparseSlice SparseSliceGrad
    SparseSoftmax SparseSoftmaxCrossEntropyWithLogits SparseSparseMaximum SparseSparseMinimum SparseSplit
    SparseTensorDenseAdd SparseTensorDenseMatMul SparseToDense SparseToSparseSetOperation Spence Split SplitV Sqrt
    SqrtGrad Square SquaredDifference Squeeze StatelessMultinomial StatelessParameterizedTruncatedNormal
    StatelessRandomBinomial StatelessRandomGammaV2 StatelessRandomGammaV3 StatelessRandomGetKeyCounter
    StatelessRandomGetKeyCounterAlg StatelessRandomNormal StatelessRandomNormalV2 StatelessRandomPoisson
    StatelessRandomUniform StatelessRandomUniformFullInt StatelessRandomUniformFullIntV2 StatelessRandomUniformInt
    StatelessRandomUniformIntV2 StatelessRandomUniformV2 StatelessSampleDistortedBoundingBox StatelessShuffle
    StatelessTruncatedNormal StatelessTruncatedNormalV2 StopGradient StridedSlice StridedSliceGrad Sub Sum Svd
    Switch Tan Tanh TanhGrad TensorScatterAdd TensorScatterMax TensorScatterMin TensorScatterSub TensorScatterUpdate
    TensorStridedSliceUpdate Tile TileGrad TopK TopKV2 Transpose TridiagonalSolve TruncateDiv TruncateMod Unique
    UniqueV2 UniqueWithCounts UniqueWithCountsV2 Unpack UnravelIndex UnsortedSegmentMax UnsortedSegmentMin
    UnsortedSegmentProd UnsortedSegmentSum UpperBound Where Xdivy Xlog1py Xlogy ZerosLike Zeta
    """.split()
)
CALLS = frozenset(
    """
    Assert Case CheckNumerics CheckNumericsV2 DeviceIndex Empty GuaranteeConst If IsTensorFloat32Enabled MapDefun
    PartitionedCall StatefulPartitionedCall StatelessCase StatelessIf StatelessWhile SymbolicGradient While
    """.split()
)
RANDOM = frozenset(
    """
    CudnnRNN CudnnRNNBackprop CudnnRNNBackpropV2 CudnnRNNBackpropV3 CudnnRNNCanonicalToParams
    CudnnRNNCanonicalToParamsV2 CudnnRNNParamsSize CudnnRNNParamsToCanonical CudnnRNNParamsToCanonicalV2 CudnnRNNV2
    CudnnRNNV3 Multinomial NonDeterministicInts ParameterizedTruncatedNormal RandomGamma RandomPoisson
    RandomPoissonV2 RandomShuffle RandomStandardNormal RandomUniform RandomUniformInt RngReadAndSkip RngSkip
    SampleDistortedBoundingBoxV2 StatefulRandomBinomial StatefulStandardNormal StatefulStandardNormalV2
    StatefulTruncatedNormal StatefulUniform StatefulUniformFullInt StatefulUniformInt StatelessRandomGetAlg
    TruncatedNormal
    """.split()
)
# Variables, lists and tables in memory.
MEMORY = frozenset(
    """
    AnonymousHashTable AnonymousMutableHashTable AssignAddVariableOp AssignSubVariableOp AssignVariableOp
    DestroyResourceOp DisableCopyOnRead EmptyTensorList HashTableV2 InitializeTableV2 LookupTableExportV2
    LookupTableFindV2 LookupTableImportV2 LookupTableInsertV2 LookupTableRemoveV2 LookupTableSizeV2
    MutableHashTableV2 RaggedTensorFromVariant RaggedTensorToVariant RaggedTensorToVariantGradient ReadVariableOp
    ResourceApplyAdaMax ResourceApplyAdadelta ResourceApplyAdagrad ResourceApplyAdagradV2 ResourceApplyAdam
    ResourceApplyAdamWithAmsgrad ResourceApplyCenteredRMSProp ResourceApplyFtrl ResourceApplyFtrlV2
    ResourceApplyGradientDescent ResourceApplyKerasMomentum ResourceApplyMomentum ResourceApplyRMSProp
    ResourceGather ResourceGatherNd ResourceScatterAdd ResourceScatterDiv ResourceScatterMax ResourceScatterMin
    ResourceScatterMul ResourceScatterNdAdd ResourceScatterNdSub ResourceScatterNdUpdate ResourceScatterSub
    ResourceScatterUpdate ResourceSparseApplyAdagradV2 ResourceSparseApplyKerasMomentum ResourceSparseApplyMomentum
    ResourceStridedSliceAssign TensorArrayCloseV3 TensorArrayConcatV3 TensorArrayGatherV3 TensorArrayGradV3
    TensorArrayReadV3 TensorArrayScatterV3 TensorArraySizeV3 TensorArraySplitV3 TensorArrayV3 TensorArrayWriteV3
    TensorListConcat TensorListConcatV2 TensorListElementShape TensorListFromTensor TensorListGather
    TensorListGetItem TensorListLength TensorListPopBack TensorListPushBack TensorListReserve TensorListResize
    TensorListScatter TensorListScatterIntoExistingList TensorListScatterV2 TensorListSetItem TensorListSplit
    TensorListStack VarHandleOp VarIsInitializedOp VariableShape
    """.split()
)
# Texts and encoded images, of a signature for servers beside the one that is used here.
TEXTS = frozenset(
    """
    AsString DecodeAndCropJpeg DecodeBase64 DecodeBmp DecodeCSV DecodeCompressed DecodeGif DecodeImage DecodeJpeg
    DecodePaddedRaw DecodePng DecodeRaw DecodeWav EncodeBase64 EncodeJpeg EncodePng EncodeWav ExtractJpegShape
    ParseExample ParseExampleV2 ParseSequenceExampleV2 ParseSingleExample ParseTensor ReduceJoin RegexFullMatch
    RegexReplace SerializeTensor StaticRegexFullMatch StaticRegexReplace StringFormat StringJoin StringLength
    StringLower StringNGrams StringSplit StringSplitV2 StringStrip StringToHashBucket StringToHashBucketFast
    StringToHashBucketStrong StringToNumber StringUpper Substr UnicodeDecode UnicodeDecodeWithOffsets UnicodeEncode
    UnicodeTranscode UnsortedSegmentJoin
    """.split()
)
COMPUTING = NUMERIC | CALLS | RANDOM | MEMORY | TEXTS
# Of the two functions that write and read variables, which every SavedModel has and only a graph of TensorFlow 1 calls.
SAVING = frozenset({"MergeV2Checkpoints", "RestoreV2", "SaveV2", "ShardedFilename"})


def foreign_operators(graph: Any) -> set[str]:
    """Return the operators of a graph's functions that may do more than compute.

    Those that save and restore are such too, save in a function that nothing names: loading cannot come to run it.
    """
    functions, named = graph.graph.library.functions, set(_names(graph))
    own = {function.signature.name for function in functions}
    found = set()
    for function in functions:
        # Equal names in api_implements let TensorFlow put one function in the other's place.
        unused = function.signature.name not in named and not any(
            item.key == b"api_implements" for item in function.attributes
        )
        allowed = COMPUTING | SAVING if unused else COMPUTING
        # A function's name is an operator too, and goes before TensorFlow's: its nodes are looked at where it is.
        found |= {_text(node.op) for node in function.nodes if node.op not in own} - allowed
    return found


def _names(graph: Any) -> Iterator[bytes]:
    """Yield the functions that functions and objects name."""
    library = graph.graph.library
    for node in (node for function in library.functions for node in function.nodes):
        yield node.op
        yield from called_functions(node)
    for item in (*library.gradients, *library.registered_gradients):
        yield item.name
    for item in graph.objects.nodes:
        yield from item.function.names
        yield item.bare_function.name


def called_functions(node: Any) -> set[bytes]:
    """Return the functions that a node's attributes name."""
    values = [item.value for item in node.attributes]
    return {value.function.name for value in values} | {item.name for value in values for item in value.items.functions}


def _text(name: bytes) -> str:
    return name.decode("utf-8", "replace")

"""The page's words, in English and Chinese."""

from __future__ import annotations

from layerwise.errors import make_unknown_name_error

LANGUAGES = ("en", "zh")

TEXTS: dict[str, tuple[str, str]] = {
    "title": ("{model} on {data}", "{model} · {data}"),
    "report": ("Layerwise report", "Layerwise 训练报告"),
    "on the test part": ("on the test part ({count} examples)", "测试集（{count} 个样本）"),
    "on the test blocks": ("on the test part (blocks of text: {count})", "测试集（{count} 段文本）"),
    "interval": ("95 % interval {low} – {high}", "95% 置信区间 {low} – {high}"),
    "baseline": (
        "Always predicting “{name}”, the most common class, would give {value}.",
        "若总是预测最常见的类别“{name}”，准确率为 {value}。",
    ),
    "baseline number": (
        "Always predicting the training part’s mean would give {value}.",
        "若总是预测训练集的均值，结果为 {value}。",
    ),
    "verdict": ("Notes on the training", "训练中的提示"),
    "metrics": ("Metrics", "指标"),
    "metric": ("metric", "指标"),
    "val": ("validation", "验证"),
    "test": ("test", "测试"),
    "train": ("training", "训练"),
    "curves": ("Curves", "训练曲线"),
    "stage": ("Stage {name}", "阶段 {name}"),
    "epoch": ("epoch", "轮次"),
    "best": ("best", "最佳"),
    "no curves": ("This run kept no history.", "本次训练没有历史记录。"),
    "curve": ("The fitted function", "拟合的函数"),
    "curve note": (
        "The line is the network’s prediction over the whole range; the points are the data.",
        "曲线是网络在整个范围内的预测，点是数据。",
    ),
    "surface": ("The fitted function", "拟合的函数"),
    "surface note": (
        "Color is the network’s prediction; a line joins equal predictions. A point has the color of its true "
        "value: if it stands out, "
        "it is an error.",
        "颜色是网络的预测，等值线连接相同的预测。点的颜色是其真实值：与底色不同的点就是误差。",
    ),
    "probabilities": ("The classes over the input", "各类别随输入的变化"),
    "probabilities note": (
        "The lines are the probability of each class; dotted, where the prediction changes. Beneath, the data by "
        "their true class.",
        "曲线是每个类别的概率，虚线处预测改变。下方是数据，按真实类别分行。",
    ),
    "regions": ("The decision boundary", "决策边界"),
    "regions note": (
        "Shading is the network’s prediction, and the dark line is where it changes. A point has the color of "
        "its true class.",
        "底色是网络的预测，深色线是预测改变之处。点的颜色是其真实类别。",
    ),
    "confusion": ("Confusion matrix", "混淆矩阵"),
    "confusion note": (
        "Rows are the true class, columns the prediction. Blue is right, orange is wrong; the deeper, the larger "
        "the row’s share.",
        "行是真实类别，列是预测。蓝色为正确，橙色为错误；颜色越深，占该行的比例越大。",
    ),
    "recall": ("recall", "召回率"),
    "classes": ("By class", "各类别"),
    "class": ("class", "类别"),
    "precision": ("precision", "精确率"),
    "f1": ("F1", "F1"),
    "roc": ("ROC-AUC", "ROC-AUC"),
    "support": ("examples", "样本数"),
    "calibration": ("Calibration", "校准"),
    "calibration note": (
        "Accuracy against confidence. On the dashed line the two are equal; below it the network is overconfident. "
        "The paler a bar, the fewer predictions. On average the two differ by {error} (expected calibration error).",
        "实际正确率与网络的置信度。落在虚线上表示两者一致，低于虚线表示过于自信；颜色越浅，预测越少。平均相差 "
        "{error}（期望校准误差）。",
    ),
    "confidence axis": ("confidence", "置信度"),
    "accuracy axis": ("accuracy", "实际正确率"),
    "true": ("true", "真实"),
    "predicted": ("predicted", "预测"),
    "confused": ("Most often confused", "最常混淆"),
    "times": ("times", "次数"),
    "neighbors": ("Nearest words", "最近的词"),
    "neighbors note": (
        "Some words of the vocabulary and the words whose vectors make the smallest angle with theirs; the "
        "number is the cosine.",
        "词表中的若干词，以及与其向量夹角最小的词；数字为余弦相似度。",
    ),
    "word": ("word", "词"),
    "count": ("count", "次数"),
    "nearest": ("nearest", "最近的词"),
    "next map": ("the words as a map in two dimensions", "把词画成二维分布图"),
    "mistakes": ("Worst mistakes", "损失最大的错误样本"),
    "mistakes note": (
        "{listed} of {wrong} mistakes, the highest loss first: true → predicted, and the confidence.",
        "共 {wrong} 个错误，显示 {listed} 个，损失最高者在前：真实 → 预测，以及置信度。",
    ),
    "no mistakes": (
        "No example of the test part is wrong. These were the hardest:",
        "测试集没有错误。以下是最难的样本：",
    ),
    "largest errors": ("Largest errors", "最大误差"),
    "worst reconstructed": ("Worst reconstructed", "重构最差的样本"),
    "example": ("example", "样本"),
    "score": ("confidence", "置信度"),
    "loss": ("loss", "损失"),
    "error": ("error", "误差"),
    "scatter": ("Predicted against true", "预测值与真实值"),
    "scatter note": (
        "Each point is an example of the test part; on the line, the prediction is exact.",
        "每个点是一个测试样本；落在线上即预测准确。",
    ),
    "predicted value": ("predicted", "预测值"),
    "true value": ("true {name}", "真实值 {name}"),
    "reconstructions": ("Reconstructions", "重构"),
    "reconstructions note": ("Above the original, below what the network made of it.", "上为原图，下为网络的重构。"),
    "columns": ("Error by column", "各列误差"),
    "column": ("column", "列"),
    "table": ("The table’s columns", "表格的列"),
    "table note": (
        "What was found in the training file, and what each column becomes for the network. Gaps are marked, "
        "not guessed.",
        "训练文件中的内容，以及每一列如何输入网络。缺失值只作标记，不填补。",
    ),
    "kind": ("kind", "类型"),
    "missing": ("missing", "缺失"),
    "distinct": ("different", "不同值"),
    "first": ("for example", "例如"),
    "becomes": ("becomes", "输入网络的形式"),
    "k number": ("number", "数值"),
    "k category": ("category", "类别"),
    "k date": ("date", "日期"),
    "k text": ("text", "文本"),
    "k empty": ("empty", "空"),
    "r target": ("the target", "目标"),
    "r id": ("names the rows", "行的名称"),
    "r group": ("group: stays in one part", "分组：同组的行在同一子集"),
    "r time": ("time: orders the parts", "时间：决定划分次序"),
    "r weight": ("weight in training", "训练权重"),
    "r left out": ("left out", "未使用"),
    "left out: numbers the rows": ("left out: numbers the rows", "未使用：只是行号"),
    "left out: free text": ("left out: free text", "未使用：自由文本"),
    "left out: empty": ("left out: empty", "未使用：全空"),
    "left out: asked for": ("left out, as asked", "按要求未使用"),
    "c number": ("1 number, scaled", "1 个数值（已缩放）"),
    "c category": ("{count} places, one a value", "{count} 个位置，每个取值一个"),
    "c vector": ("a learned vector for each of {count} values", "{count} 个取值各有一个可学习的向量"),
    "c date": ("{count} numbers: where in time, year and week", "{count} 个数值：时间、一年与一周中的位置"),
    "c missing": ("{what}, and a mark for missing values", "{what}，外加缺失标记"),
    "deviation": ("deviation in the data", "数据标准差"),
    "rms": ("error (RMS)", "误差（均方根）"),
    "samples": ("Samples", "采样"),
    "samples note": (
        "Drawn from the top layer by {steps} Gibbs steps from a random start: what the machine thinks its "
        "inputs are like.",
        "从顶层随机状态出发，经 {steps} 步吉布斯采样得到，是模型所学分布的样本。",
    ),
    "run": ("The run", "本次训练"),
    "model": ("model", "模型"),
    "parameters": ("parameters", "参数量"),
    "data": ("data", "数据"),
    "examples": ("examples", "样本数"),
    "examples of": ("{train} training, {val} validation, {test} test", "训练 {train}，验证 {val}，测试 {test}"),
    "epochs": ("best epoch", "最佳轮次"),
    "time": ("training time", "训练时间"),
    "seconds": ("{value} s", "{value} 秒"),
    "minutes": ("{value} min", "{value} 分钟"),
    "host": ("machine", "机器"),
    "versions": ("versions", "版本"),
    "fingerprint": ("data fingerprint", "数据指纹"),
    "flags": ("flags", "运行设置"),
    "notes": ("Notes", "提示"),
    "reproduce": ("Repeat this run", "重现本次训练"),
    "recipe": ("The recipe, with every option spelled out", "配方（列出全部选项）"),
    "next": ("What next", "接下来"),
    "next predict": ("ask it about something new", "对新的输入进行预测"),
    "next eval": ("measure it on other data", "在其他数据上评估"),
    "next mistakes": ("all mistakes, as a table and images", "查看全部错误（表格与图像）"),
    "next columns": ("which columns matter, and how much", "哪些列重要，有多重要"),
    "next gradients": ("watch backpropagation, layer by layer", "逐层观察反向传播"),
    "next function": ("the drawing above, and its values as a table", "上面的函数图及其数值表"),
    "next samples": ("more samples, and the filters", "更多采样与滤波器"),
    "next doctor": ("check every file of the run", "检查本次训练的所有文件"),
    "more": ("show", "展开"),
    "m accuracy": ("accuracy", "准确率"),
    "m loss": ("loss", "损失"),
    "m mae": ("mean absolute error", "平均绝对误差"),
    "m rmse": ("root mean squared error", "均方根误差"),
    "m r2": ("R²", "R²"),
    "m mse": ("mean squared error", "均方误差"),
    "m balanced-accuracy": ("balanced accuracy", "平衡准确率"),
    "m macro-f1": ("F1, mean over classes", "F1（各类别平均）"),
    "m roc-auc": ("area under the ROC curve", "ROC 曲线下面积"),
    "m calibration-error": ("expected calibration error", "期望校准误差"),
}


class Texts:
    """The page's words in one language."""

    def __init__(self, lang: str) -> None:
        """Raises `UsageError` for a language other than en and zh."""
        if lang not in LANGUAGES:
            raise make_unknown_name_error("language", lang, LANGUAGES)
        self.lang, self.column = lang, LANGUAGES.index(lang)

    def __call__(self, key: str, **values: object) -> str:
        """Return a text by its key, with its fields filled in."""
        text = TEXTS[key][self.column]
        return text.format_map(values) if values else text

    def metric(self, name: str) -> str:
        """Return a metric's name in words, or the name itself where there are none."""
        key = f"m {name}"
        return TEXTS[key][self.column] if key in TEXTS else name

    def pick(self, pair: list[str] | tuple[str, ...]) -> str:
        """Return this language's text of an (English, Chinese) pair, the English where there is no other."""
        return (pair[self.column] if len(pair) > self.column else "") or (pair[0] if pair else "")
